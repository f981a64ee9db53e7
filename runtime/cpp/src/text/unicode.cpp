#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>

namespace himar::core::text {
namespace {

static_assert(sizeof(char32_t) == sizeof(utf8proc_int32_t), "code points are converted in place");
constexpr auto kComposed = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

utf8proc_int32_t* points_of(std::u32string& text) { return reinterpret_cast<utf8proc_int32_t*>(text.data()); }

// Unicode's property White_Space, which has not changed since version 6.3.
bool is_space(char32_t point) {
    return (point >= 0x09 && point <= 0x0D) || point == 0x20 || point == 0x85 || point == 0xA0 || point == 0x1680 ||
           (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 || point == 0x202F ||
           point == 0x205F || point == 0x3000;
}

int combining_class(char32_t point) {
    return utf8proc_get_property(static_cast<utf8proc_int32_t>(point))->combining_class;
}

// The code points of UTF-8, one by one as the options have them.
std::u32string decomposed(std::string_view text, utf8proc_option_t options) {
    constexpr utf8proc_ssize_t most = 8;  // of one; canonical decompositions have at most 4
    std::u32string points;
    points.reserve(text.size());
    const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    for (std::size_t at = 0; at < text.size();) {
        utf8proc_int32_t point = 0, parts[most];
        const auto size = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point);
        if (size <= 0) break;
        const auto count = utf8proc_decompose_char(point, parts, most, options, nullptr);
        points.insert(points.end(), parts, parts + std::clamp<utf8proc_ssize_t>(count, 0, most));
        at += static_cast<std::size_t>(size);
    }
    return points;
}

// Put every run of combining marks into canonical order: utf8proc's own sort takes quadratic time on a long run.
void order_marks(std::u32string& points) {
    const auto is_mark = [](char32_t point) { return combining_class(point) != 0; };
    for (auto run = points.begin(); run != points.end();) {
        run = std::find_if(run, points.end(), is_mark);
        const auto end = std::find_if_not(run, points.end(), is_mark);
        std::stable_sort(run, end, [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
        run = end;
    }
}

std::u32string composed(std::string_view text) {
    std::u32string points = decomposed(text, kComposed);
    order_marks(points);
    const auto size = utf8proc_normalize_utf32(points_of(points), static_cast<utf8proc_ssize_t>(points.size()), kComposed);
    points.resize(static_cast<std::size_t>(std::max<utf8proc_ssize_t>(size, 0)));
    return points;
}

void append_lower(std::u32string& text, char32_t point) {
    if (point == 0x130)  // the one whose lower case is two
        text += U"i\u0307";
    else if (point < 0x80)
        text += point >= 'A' && point <= 'Z' ? point + 0x20 : point;
    else
        text += static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point)));
}

bool is_ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char each) { return (each & 0x80) == 0; });
}

}  // namespace

std::size_t first_invalid(std::string_view text) {
    const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    for (std::size_t at = 0; at < text.size() ;) {
        utf8proc_int32_t point = 0;
        const auto size = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point);
        if (size <= 0) return at;
        at += static_cast<std::size_t>(size);
    }
    return std::string_view::npos;
}

std::u32string normalised(std::string_view text) {
    const std::u32string points = is_ascii(text) ? std::u32string(text.begin(), text.end()) : composed(text);
    std::u32string made;
    made.reserve(points.size());
    for (const char32_t point : points) append_lower(made, is_space(point) ? U' ' : point);
    return made;
}

std::u32string case_folded(std::string_view text) { return decomposed(text, UTF8PROC_CASEFOLD); }

bool is_letter(char32_t point) {
    if (point < 0x80) return point >= 'a' && point <= 'z';
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(point));
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_number(char32_t point) {
    if (point < 0x80) return point >= '0' && point <= '9';
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(point));
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

void append_utf8(std::string& text, char32_t point) {
    utf8proc_uint8_t bytes[4];
    const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(point), bytes);
    text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
}

}  // namespace himar::core::text
