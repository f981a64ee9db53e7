// Runs a fuzz target over files and folders of them, for compilers without libFuzzer.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "run_corpus.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* count, char*** values);

namespace fs = std::filesystem;

namespace {

void run(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    // Exactly as long as the input, so that a sanitizer sees what reads past its end.
    const std::vector<std::uint8_t> data(bytes.begin(), bytes.end());
    LLVMFuzzerTestOneInput(data.data(), data.size());
}

}  // namespace

int main(int count, char** values) {
    if (LLVMFuzzerInitialize != nullptr) LLVMFuzzerInitialize(&count, &values);
    int inputs = 0;
    for (int i = 1; i < count; ++i) {
        if (!fs::is_directory(values[i])) {
            run(values[i]);
            ++inputs;
            continue;
        }
        for (const fs::directory_entry& entry : fs::directory_iterator(values[i])) {
            run(entry.path());
            ++inputs;
        }
    }
    std::printf("%d inputs, %d of them read\n", inputs, inputs_read);
    return inputs > 0 ? 0 : 2;
}
