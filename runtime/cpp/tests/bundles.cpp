#include "bundles.h"

#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace fs = std::filesystem;

fs::path bundle(const std::string& name) {
    const char* const folder = std::getenv("HIMAR_TEST_BUNDLES");
    if (folder == nullptr) throw std::runtime_error("HIMAR_TEST_BUNDLES is not set; run the tests by ctest.");
    return fs::path(folder) / name;
}

TemporaryFolder::TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "himar-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder can be made.");
    folder_ = name;
}

TemporaryFolder::~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
}

Copy::Copy(const std::string& name) : path_(beside() / "bundle") { fs::copy(bundle(name), path_, fs::copy_options::recursive); }

void Copy::edit(const std::function<void(Json&)>& change) const {
    std::ifstream from(path_ / "manifest.json");
    auto manifest = Json::parse(from);
    from.close();
    change(manifest);
    std::ofstream(path_ / "manifest.json") << manifest.dump();
}
