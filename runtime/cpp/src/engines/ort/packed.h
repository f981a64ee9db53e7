// Graphs as ONNX Runtime optimised them, kept with weights packed for this CPU in files that processes share.
//
// The counterpart of himar_runtime/engines/ort/packed.py, which says what is kept: both make and use the same entries, under
// the same names, where ONNX Runtime's build is the same. Nothing here is needed to run a bundle: whatever goes wrong is
// said on stderr, and the bundle's own graph is loaded instead.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "engines/ort/entries.h"

namespace himar::core {

// Whether packed graphs are asked for, by HIMAR_ORT_PACKED; InputError where a variable is not what it may be.
bool keeps_packed();

// What a graph of a bundle is made of.
struct GraphContent {
    std::vector<std::string> hashes;  // of the graph and of all files that its weights may be in
    std::function<void()> check;      // compares them, which is due before the graph is loaded; BundleError
};

// Itself and every file but other graphs, engines and the self-test.
GraphContent content_of(const Bundle& bundle, const std::string& file);

// What a layout of packed weights may depend on of this machine's CPUs; empty where that is not known. cpuinfo: the
// system's file.
std::string cpu_facts(const std::filesystem::path& cpuinfo = "/proc/cpuinfo");

// The folder of the entry of a graph: its name is made of the graph's content, ONNX Runtime's build and the CPU.
std::filesystem::path packed_folder(const std::vector<std::string>& hashes, const std::string& cpu);

struct PackedSession {
    std::optional<OpenFile> used;  // keeps the entry from being removed
    Ort::Session session;
};

// A session of a graph's entry, which is made first if need be; none where there can be none, which is said.
//
// path: the bundle's graph, read only to make an entry, after `content.check`, whose BundleError comes out. weights: bytes of
// the graph's, if known.
std::optional<PackedSession> packed_session(const Ort::Env& env, const std::filesystem::path& path,
                                            const Ort::SessionOptions& options, std::optional<std::int64_t> weights,
                                            const GraphContent& content);

}  // namespace himar::core
