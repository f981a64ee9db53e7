// The C interface of the tokenizer.
#include "text/tokenizer.h"

#include <algorithm>

#include "api/c_guard.h"
#include "api/prompts.h"

struct himar_tokenizer {
    himar::core::text::Tokenizer core;
};

using namespace himar::core;

namespace {

text::Vocabulary vocabulary_of(const std::filesystem::path& folder) {
    if (std::filesystem::is_regular_file(folder / "manifest.json")) return read_vocabulary(Bundle::open(folder));
    return text::read_vocabulary(folder);
}

}  // namespace

himar_status himar_tokenizer_open(const char* path, himar_tokenizer** tokenizer) {
    return guarded([&] {
        given(path, "path");
        himar_tokenizer*& out = given(tokenizer, "tokenizer");
        out = new himar_tokenizer{text::Tokenizer(vocabulary_of(path))};
        return HIMAR_OK;
    });
}

himar_status himar_tokenizer_free(himar_tokenizer* tokenizer) {
    delete tokenizer;
    return HIMAR_OK;
}

himar_status himar_tokenizer_get_info(const himar_tokenizer* tokenizer, himar_tokenizer_info* info) {
    return guarded([&] {
        const text::Tokenizer& core = given(tokenizer, "tokenizer").core;
        checked(given(info, "info"), "himar_tokenizer_info", "set it to sizeof(himar_tokenizer_info)");
        *info = {sizeof *info, core.length(), core.start(), core.end(), core.padding()};
        return HIMAR_OK;
    });
}

himar_status himar_tokenizer_encode(const himar_tokenizer* tokenizer, const char* const* prompts,
                                    const size_t* bytes, size_t count, int64_t* ids, size_t* sizes, uint8_t* truncated) {
    return guarded([&] {
        const text::Tokenizer& core = given(tokenizer, "tokenizer").core;
        const text::Rows rows = core.rows(text::prompts_of(prompts, bytes, count));
        if (ids != nullptr) std::copy(rows.ids.begin(), rows.ids.end(), ids);
        if (sizes != nullptr) std::copy(rows.sizes.begin(), rows.sizes.end(), sizes);
        if (truncated != nullptr) {
            std::fill_n(truncated, count, std::uint8_t{0});
            for (const std::size_t place : rows.truncated) truncated[place] = 1;
        }
        return HIMAR_OK;
    });
}
