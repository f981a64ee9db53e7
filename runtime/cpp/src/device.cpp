#include "device.h"

#include "error.h"
#include "text.h"

namespace himar::core {

Device Device::parse(const std::string& text) {
    if (text == "cpu") return {};
    if (text == "cuda") return {true, 0};
    const std::string number = text.rfind("cuda:", 0) == 0 ? text.substr(5) : "";
    // No machine has a GPU of more digits, and more would not fit.
    if (number.empty() || number.size() > 6 || number.find_first_not_of("0123456789") != std::string::npos)
        throw EngineError("device is " + in_quotes(text) + "; it must be 'cpu', 'cuda' or 'cuda:N' with a GPU's number.");
    return {true, std::stoi(number)};
}

}  // namespace himar::core
