// What tokenizers and names of classes need of Unicode, by utf8proc: code points, canonical composition, lower case, classes.
#pragma once

#include <string>
#include <string_view>

namespace himar::core::text {

// The first byte of a text that is not UTF-8; npos where all of it is.
std::size_t first_invalid(std::string_view text);

// The code points of a text as CLIP's tokenizer sees them: composed (NFC), every white-space character a space, in lower
// case, code point by code point: U+0130 is two, and a final sigma is like any other. The text must be UTF-8.
std::u32string normalised(std::string_view text);

// The code points of a text without the difference of upper and lower case: U+00DF is two. The text must be UTF-8.
std::u32string case_folded(std::string_view text);

// Of a normalised code point.
bool is_letter(char32_t point);  // general categories L…
bool is_number(char32_t point);  // general categories N…

// Append a code point as UTF-8.
void append_utf8(std::string& text, char32_t point);

}  // namespace himar::core::text
