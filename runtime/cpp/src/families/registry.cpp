// The families of this library: a line each. A family's folder has all else.
#include "bundle/json_reader.h"
#include "error.h"
#include "families/family.h"
#include "families/hi_mar/model.h"
#include "text.h"

namespace himar::core {
namespace {

struct Family {
    const char* name;  // in a manifest's model.family; the first is that of manifests without one
    std::shared_ptr<Model> (*read)(const JsonReader& reader);
    std::string (*describe)(const himar_generate_params& params);  // its settings, as text
};

constexpr Family kFamilies[] = {
    {"hi_mar", &hi_mar::read_model, &hi_mar::described},
};

const Family& family_of(const JsonReader& reader) {
    const auto found = reader.values().find("family");
    if (found == reader.values().end()) return kFamilies[0];
    std::vector<std::string> known;
    for (const Family& family : kFamilies) {
        if (*found == family.name) return family;
        known.push_back(in_quotes(family.name));
    }
    throw BundleError(reader.source() + ": " + reader.at("family") + " is " + shown(*found) + "; this himar knows " +
                      joined(known) + ": install a newer himar.");
}

}  // namespace

std::shared_ptr<const Model> read_model(const JsonReader& reader) {
    const Family& family = family_of(reader);
    std::shared_ptr<Model> model = family.read(reader);
    model->family = family.name;
    return model;
}

std::string described_settings(const himar_generate_params& params) {
    std::string text;
    for (const Family& family : kFamilies) text += family.describe(params);
    return text;
}

}  // namespace himar::core
