#include "warnings.h"

#include <cstdio>
#include <mutex>

#include "himar/himar.h"

namespace himar::core {
namespace {

struct Handler {
    himar_warning_callback callback = nullptr;
    void* user = nullptr;
};

std::mutex lock;
Handler handler;

}  // namespace

void warn(const std::string& sentence) {
    const std::lock_guard<std::mutex> guard(lock);  // sentences come one after another
    if (handler.callback != nullptr) return handler.callback(sentence.c_str(), handler.user);
    std::fprintf(stderr, "himar: %s\n", sentence.c_str());
}

}  // namespace himar::core

using namespace himar::core;

void himar_set_warning_callback(himar_warning_callback callback, void* user) {
    const std::lock_guard<std::mutex> guard(lock);
    handler = {callback, user};
}
