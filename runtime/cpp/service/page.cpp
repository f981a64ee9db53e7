#include "page.h"

#include <httplib.h>

#include <utility>

#include "page_files.h"
#include "text.h"

namespace himar::service {
namespace {

// Of every file; the Python service's are the same (runtime/himar_runtime/service/page/routes.py).
constexpr std::pair<const char*, const char*> kHeaders[] = {
    {"Cache-Control", "no-cache"},  // kept, but asked for again: a newer server's page is seen at once
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
     "trusted-types 'none'"},
    {"Referrer-Policy", "no-referrer"},
    {"X-Content-Type-Options", "nosniff"}};

void answer(const httplib::Request& request, httplib::Response& response) {
    const PageFile* file = page_file(request.path);
    if (file == nullptr) {
        response.status = 404;
        return;
    }
    for (const auto& [name, value] : kHeaders) response.set_header(name, value);
    response.set_header("ETag", file->tag);
    for (std::size_t i = 0; i < request.get_header_value_count("If-None-Match"); ++i)
        if (is_known(request.get_header_value("If-None-Match", "", i), file->tag)) {
            response.status = 304;
            return;
        }
    response.set_content(reinterpret_cast<const char*>(file->bytes), file->size, file->type);
}

}  // namespace

const PageFile* page_file(const std::string& path) {
    for (const PageFile& file : kPageFiles)
        if (path == file.path) return &file;
    return nullptr;
}

void add_page(httplib::Server& server) {
    server.Get("/", answer);
    server.Get("/page/.*", answer);
}

bool is_known(const std::string& if_none_match, const std::string& tag) {
    for (const std::string& member : core::split(if_none_match, ",")) {
        const std::string sent = core::trimmed(member);
        if (sent == "*" || sent == tag || sent == "W/" + tag) return true;
    }
    return false;
}

}  // namespace himar::service
