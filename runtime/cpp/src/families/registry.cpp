// The families of this library: a line each. A family's folder has all else.
#include <algorithm>

#include "bundle/json_reader.h"
#include "error.h"
#include "families/family.h"
#include "families/hi_mar/model.h"
#include "families/hmar/model.h"
#include "text.h"

namespace himar::core {
namespace {

struct Family {
    const char* name;       // in a manifest's model.family; the first is that of manifests without one
    const char* one_model;  // for a sentence
    std::shared_ptr<Model> (*read)(const JsonReader& reader);
    std::string (*describe)(const himar_generate_params& params);                // its settings, as text
    std::vector<std::string> (*changes)(const himar_generate_params& params);   // the names of those that are changed
    std::vector<std::string> settings;                                           // the names of all
};

const std::vector<Family>& families() {
#define HIMAR_NAME(kind, name) , #name
    static const std::vector<Family> all = {
        {"hi_mar", "a Hi-MAR model", &hi_mar::read_model, &hi_mar::described, &hi_mar::changes,
         {"guidance" HIMAR_HI_MAR_SETTINGS(HIMAR_NAME)}},
        {"hmar", "an HMAR model", &hmar::read_model, &hmar::described, &hmar::changes,
         {"guidance" HIMAR_HMAR_SETTINGS(HIMAR_NAME)}},
    };
#undef HIMAR_NAME
    return all;
}

const Family& family_of(const JsonReader& reader) {
    const auto found = reader.values().find("family");
    if (found == reader.values().end()) return families().front();
    std::vector<std::string> known;
    for (const Family& family : families()) {
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

const char* first_family() { return families().front().name; }

void refuse_other_settings(const Model& model, const himar_generate_params& params) {
    const Family* own = nullptr;
    for (const Family& family : families())
        if (family.name == model.family) own = &family;
    for (const Family& family : families()) {
        if (&family == own) continue;
        std::vector<std::string> changed = family.changes(params);
        if (changed.empty()) continue;
        std::sort(changed.begin(), changed.end());
        if (changed.front() == "guidance")  // which both have
            throw InputError(std::string("guidance of ") + family.name + " is given, but " + own->one_model +
                             " takes it among the settings of " + own->name + ".");
        throw InputError(changed.front() + " is given, but " + own->one_model + " has no such setting; it has " +
                         joined(own->settings) + ".");
    }
}

std::string described_settings(const himar_generate_params& params) {
    std::string text;
    for (const Family& family : families()) text += family.describe(params);
    return text;
}

}  // namespace himar::core
