// Splitting a normalised text into the words that byte-pair encoding takes one by one.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace himar::core::text {

// Call `take` with every word, UTF-8, until it returns false: the endings 's 't 're 've 'm 'll 'd, one number, a run of
// letters, or a run of what is neither letter, number nor space.
void for_each_word(std::u32string_view text, const std::function<bool(const std::string& word)>& take);

}  // namespace himar::core::text
