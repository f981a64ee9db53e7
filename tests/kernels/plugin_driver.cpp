// Drives the plugin library as TensorRT does, without TensorRT: creators, attributes, shapes, serialization.
// Usage: plugin_driver libhimar_reverse_step.so; exit code 0 when every check holds, else the line of the first.
#include <NvInfer.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition);     \
            std::exit(1);                                                    \
        }                                                                    \
    } while (false)

struct Logger : ILogger {
    std::string last;
    void log(Severity, const char* text) noexcept override { last = text; }
};
struct Finder final : ILoggerFinder {
    Logger logger;
    ILogger* findLogger() override { return &logger; }
};

Dims dims(std::initializer_list<std::int64_t> sizes) {
    Dims made{};
    for (const std::int64_t size : sizes) made.d[made.nbDims++] = size;
    return made;
}

using Plugin = std::unique_ptr<IPluginV3>;

Plugin create(IPluginCreatorV3One& creator, const char* head, std::int32_t halves) {
    const PluginField fields[] = {{"plugin_version", "1", PluginFieldType::kCHAR, 1},
                                  {"head", head, PluginFieldType::kCHAR, static_cast<std::int32_t>(std::strlen(head))},
                                  {"halves", &halves, PluginFieldType::kINT32, 1}};
    const PluginFieldCollection collection{3, fields};
    return Plugin(creator.createPlugin("step", &collection, TensorRTPhase::kBUILD));
}

template <class Interface>
Interface& capability(IPluginV3& plugin, PluginCapabilityType type) {
    auto* const found = plugin.getCapabilityInterface(type);
    CHECK(found != nullptr);
    return *static_cast<Interface*>(found);
}

std::int32_t shapes(IPluginV3& plugin, Dims x, Dims prediction, Dims noise, Dims parameters) {
    std::vector<PluginTensorDesc> inputs(4), outputs(1);
    const Dims all[] = {x, prediction, noise, parameters};
    for (int i = 0; i < 4; ++i) inputs[i].dims = all[i];
    auto& runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
    return runtime.onShapeChange(inputs.data(), 4, outputs.data(), 1);
}

std::int32_t profile(IPluginV3& plugin, Dims least, Dims most, Dims least_prediction, Dims most_prediction) {
    std::vector<DynamicPluginTensorDesc> inputs(4), outputs(1);
    const Dims small[] = {least, least_prediction, least, dims({10})};
    const Dims large[] = {most, most_prediction, most, dims({10})};
    for (int i = 0; i < 4; ++i) inputs[i].min = small[i], inputs[i].max = large[i];
    auto& build = capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
    return build.configurePlugin(inputs.data(), 4, outputs.data(), 1);
}

int main(int, char** arguments) {
    void* const library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
    CHECK(library != nullptr);
    const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    const auto get_creators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(std::int32_t&)>(dlsym(library, "getCreators"));
    CHECK(set_finder != nullptr && get_creators != nullptr);
    Finder finder;
    set_finder(&finder);

    std::int32_t count = 0;
    IPluginCreatorInterface* const* const creators = get_creators(count);
    CHECK(count == 1);
    CHECK(std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0);
    auto& creator = *static_cast<IPluginCreatorV3One*>(creators[0]);
    CHECK(std::strcmp(creator.getPluginName(), "HimarReverseStep") == 0);
    CHECK(std::strcmp(creator.getPluginVersion(), "1") == 0 && std::strcmp(creator.getPluginNamespace(), "himar") == 0);
    CHECK(creator.getFieldNames()->nbFields == 2);

    // Attributes.
    CHECK(create(creator, "vae", 2) == nullptr && finder.logger.last.find("head") != std::string::npos);
    CHECK(create(creator, "dit", 3) == nullptr && finder.logger.last.find("halves") != std::string::npos);
    CHECK(creator.createPlugin("step", nullptr, TensorRTPhase::kBUILD) == nullptr);
    const Plugin mlp = create(creator, "mlp", 2), dit = create(creator, "dit", 1);
    CHECK(mlp != nullptr && dit != nullptr);

    // Serialization: what a runtime is given makes the same plugin.
    auto& runtime = capability<IPluginV3OneRuntime>(*mlp, PluginCapabilityType::kRUNTIME);
    const Plugin again(creator.createPlugin("step", runtime.getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
    CHECK(again != nullptr);
    const Plugin attached(runtime.attachToContext(nullptr)), copy(dit->clone());
    for (const Plugin* plugin : {&mlp, &again, &attached}) {
        CHECK(shapes(**plugin, dims({6, 16}), dims({12, 32}), dims({6, 16}), dims({10})) == 0);
        CHECK(shapes(**plugin, dims({6, 16}), dims({6, 32}), dims({6, 16}), dims({10})) != 0);
    }

    // Shapes.
    CHECK(shapes(*copy, dims({2, 256, 16}), dims({2, 256, 16}), dims({2, 256, 16}), dims({10})) == 0);
    CHECK(shapes(*copy, dims({2, 256, 16}), dims({2, 256, 32}), dims({2, 256, 16}), dims({10})) != 0);
    CHECK(finder.logger.last.find("prediction") != std::string::npos);
    CHECK(shapes(*copy, dims({2, 256, 16}), dims({2, 256, 16}), dims({2, 255, 16}), dims({10})) != 0);
    CHECK(shapes(*copy, dims({2, 256, 16}), dims({2, 256, 16}), dims({2, 256, 16}), dims({9})) != 0);
    CHECK(finder.logger.last.find("parameters (10)") != std::string::npos);
    CHECK(shapes(*copy, dims({16}), dims({16}), dims({16}), dims({10})) != 0);
    CHECK(shapes(*copy, dims({1 << 30, 16}), dims({1 << 30, 16}), dims({1 << 30, 16}), dims({10})) != 0);
    CHECK(profile(*mlp, dims({1, 16}), dims({64, 16}), dims({2, 32}), dims({128, 32})) == 0);
    CHECK(profile(*mlp, dims({-1, 16}), dims({-1, 16}), dims({-1, 32}), dims({-1, 32})) == 0);
    CHECK(profile(*mlp, dims({1, 16}), dims({64, 16}), dims({2, 32}), dims({64, 32})) != 0);

    // Types and formats.
    auto& build = capability<IPluginV3OneBuild>(*mlp, PluginCapabilityType::kBUILD);
    const DataType inputs[] = {DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    DataType output = DataType::kHALF;
    CHECK(build.getNbOutputs() == 1 && build.getOutputDataTypes(&output, 1, inputs, 4) == 0);
    CHECK(output == DataType::kFLOAT);
    std::vector<DynamicPluginTensorDesc> tensors(5);
    for (int i = 0; i < 5; ++i) {
        tensors[i].desc.type = DataType::kFLOAT;
        tensors[i].desc.format = TensorFormat::kLINEAR;
        CHECK(build.supportsFormatCombination(i, tensors.data(), 4, 1));
        tensors[i].desc.type = DataType::kHALF;
        CHECK(!build.supportsFormatCombination(i, tensors.data(), 4, 1));
    }
    return 0;
}
