#include "api/prompts.h"

#include "error.h"

namespace himar::core {

text::Vocabulary read_vocabulary(const Bundle& bundle) {
    const std::string source = (bundle.root() / "manifest.json").string();
    if (!bundle.manifest().tokenizer)
        throw BundleError(bundle.root().string() + " has no tokenizer: it takes class numbers or contexts; one of a model "
                          "from text takes prompts if it is built with `himar-export build --text FOLDER`.");
    const TokenizerInfo& info = *bundle.manifest().tokenizer;
    const text::Vocabulary read{text::read_merges(bundle.path(info.merges.file)), info.length, info.padding, info.repairs_text};
    std::string problem = text::disagreement(bundle.path(info.vocabulary.file), read.merges);
    if (problem.empty() && (info.start != read.start() || info.end != read.end()))
        problem = "start and end are [" + std::to_string(info.start) + ", " + std::to_string(info.end) + "] and not [" +
                  std::to_string(read.start()) + ", " + std::to_string(read.end()) + "]";
    if (problem.empty() && (info.length < 2 || info.padding < 0 || info.padding > read.end()))
        problem = "length is " + std::to_string(info.length) + " and padding " + std::to_string(info.padding);
    if (!problem.empty()) throw BundleError(source + ": its tokenizer is none: " + problem + "; build the bundle again.");
    return read;
}

Texts RequestTexts::from(std::size_t first, const ModelFacts& facts) const {
    const auto rows = static_cast<std::int64_t>(first) * facts.context_length;
    if (contexts != nullptr) return {nullptr, contexts + rows * facts.context_width};
    return tokens.empty() ? Texts{} : Texts{tokens.data() + rows, nullptr};
}

RequestTexts Prompts::read(const char* const* prompts, std::size_t count) {
    if (bundle_->manifest().components.count(kTextEncoder) == 0)
        throw InputError(bundle_->root().string() + " has no " + kTextEncoder +
                         ", so it takes contexts, not prompts; give contexts, or build it again with --text.");
    const std::vector<std::string_view> views = text::prompts_of(prompts, nullptr, count);
    text::Rows rows = tokenizer().rows(views);
    return {{views.begin(), views.end()}, nullptr, std::move(rows.ids), std::move(rows.truncated)};
}

const text::Tokenizer& Prompts::tokenizer() {
    const std::lock_guard<std::mutex> lock(lock_);
    if (tokenizer_ == nullptr) tokenizer_ = std::make_unique<const text::Tokenizer>(read_vocabulary(*bundle_));
    return *tokenizer_;
}

}  // namespace himar::core
