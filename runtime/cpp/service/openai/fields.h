// The fields of a request in OpenAI's form, from JSON or from a form, and refusals of them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "himar/himar.hpp"
#include "refusals.h"

namespace himar::service::openai {

using FieldValue = nlohmann::ordered_json;
using Words = std::vector<std::string>;

bool has(const Words& words, const std::string& word);

// A value as a sentence shows it.
std::string shown(const FieldValue& value);

// The refusal of a field's value.
Refusal wrong(const std::string& param, const std::string& sentence);

// Call what throws the runtime's errors, which then are of this field.
template <class Body>
auto about(const std::string& param, Body body) {
    try {
        return body();
    } catch (const Error& error) {
        if (error.status() != HIMAR_ERROR_INPUT) throw;
        throw wrong(param, error.what());
    }
}

// Refusal of the name of a field that is neither taken nor ignored.
void check_known(const std::string& name, const Words& taken, const Words& ignored);

// The fields that are not null, OpenAI's word for the default.
class Fields {
public:
    // Of a JSON object.
    explicit Fields(FieldValue values) : values_(std::move(values)) {}

    // Null where there is none.
    const FieldValue* find(const std::string& key) const;

    int whole(const std::string& key, int other, int least, int most) const;

    // One of the words, the first by default; `reason` follows the value of any other.
    std::string word(const std::string& key, const Words& words, const std::string& reason) const;

private:
    FieldValue values_;
};

}  // namespace himar::service::openai
