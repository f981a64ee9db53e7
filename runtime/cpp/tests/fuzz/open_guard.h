// Ends the program when it opens a file outside of some folders: the functions of the C library that open files, replaced.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

// While it lives, every file that is opened must lie, links resolved, in one of `folders`. One at a time.
class Guard {
public:
    explicit Guard(const std::vector<std::filesystem::path>& folders);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
};

// End the program, saying why, unless `path` leads into a guarded folder.
void require_inside(const std::string& path);

// End the program unless the guard sees what streams and C's files open: a guard that sees nothing would prove nothing.
void check_guard();
