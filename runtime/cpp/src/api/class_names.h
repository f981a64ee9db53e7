// Classes by what a person writes: a number, a name, or a beginning of one; and the names that are nearest to a wrong one.
//
// The counterpart of `named_class` in himar_kernels/labels.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace himar::core {

// The class that a text names. names: one for each class, "" of one without; empty where the bundle has none. InputError
// with the nearest names, or those that it could be, for what names none, or several.
std::int64_t named_class(const std::string& text, std::int64_t classes, const std::vector<std::string>& names);

// How alike two texts are, from 0 to 1: twice the length of what they share over that of both, where the shared is the
// longest common run, and so on to its left and its right (Ratcliff and Obershelp), as Python's difflib counts it. In
// `word`, of 200 letters or more, those that make up over a hundredth do not begin a run.
double likeness(const std::u32string& text, const std::u32string& word);

}  // namespace himar::core
