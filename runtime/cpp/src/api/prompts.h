// A request's prompts and contexts: the tokenizer of a bundle, loaded when a prompt first needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "families/family.h"
#include "text/tokenizer.h"

namespace himar::core {

// The vocabulary of a bundle that takes prompts. BundleError where it has none, or its files are no CLIP vocabulary.
text::Vocabulary read_vocabulary(const Bundle& bundle);

// What the images of a request are made from, where that is not their class.
struct RequestTexts {
    std::vector<std::string> prompts;    // one of an image, else
    const float* contexts = nullptr;     // (images, K, W), the caller's
    std::vector<std::int64_t> tokens;    // (images, K) of prompts
    std::vector<std::size_t> truncated;  // places of prompts that were cut at K tokens

    Texts from(std::size_t first, const ModelFacts& facts) const;  // of image `first` and those behind it
};

// The prompts of a bundle's lanes. Thread-safe.
class Prompts {
public:
    explicit Prompts(std::shared_ptr<const Bundle> bundle) : bundle_(std::move(bundle)) {}

    // Encode prompts. InputError for a bundle without a text encoder and for what the tokenizer refuses, BundleError for a
    // damaged tokenizer.
    RequestTexts read(const char* const* prompts, std::size_t count);

private:
    const text::Tokenizer& tokenizer();

    std::shared_ptr<const Bundle> bundle_;
    std::mutex lock_;
    std::unique_ptr<const text::Tokenizer> tokenizer_;
};

}  // namespace himar::core
