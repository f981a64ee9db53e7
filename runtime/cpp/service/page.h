// The web page at `/`: the files of runtime/himar_runtime/service/page/files, which the build embeds, and their headers.
#pragma once

#include <cstddef>
#include <string>

namespace httplib {
class Server;
}  // namespace httplib

namespace himar::service {

struct PageFile {
    const char* path;  // on the server: "/", or "/page/NAME"
    const char* type;
    const char* tag;  // entity tag: the beginning of the bytes' SHA-256, quoted
    const unsigned char* bytes;
    std::size_t size;
};

// The file at a path of the server; null where there is none.
const PageFile* page_file(const std::string& path);

// Answer GET and HEAD of the page's paths. Below /page/ a path without a file is left at 404 without a body.
void add_page(httplib::Server& server);

// Whether a client has the file already, by the tags of its If-None-Match (RFC 9110, 13.1.2).
bool is_known(const std::string& if_none_match, const std::string& tag);

}  // namespace himar::service
