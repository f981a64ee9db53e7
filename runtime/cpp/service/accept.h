// What a client takes: its Accept header with media ranges and quality values (RFC 9110, section 12.5.1).
#pragma once

#include <string>

namespace himar::service {

// How much a client wants the two types of answers, from 0 (not acceptable) to 1.
struct Accepted {
    double json = 1, png = 1;
};

// The most specific range that matches a type counts: TYPE/SUBTYPE before TYPE/*, and that before */*. Parameters of a
// range other than q are left aside. A member that cannot be read is ignored; a header of none that can is as good as no
// header, which takes everything.
Accepted read_accept(const std::string& header);

}  // namespace himar::service
