#include "fault.h"

#include <string>

#include "error.h"

namespace himar::core {
namespace {

constexpr const char* kComponents[] = {"transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"};

}  // namespace

void check_fault(u32 word) {
    if (word == 0) return;
    const u32 number = word & 0xFF;
    if (number < 1 || number > std::size(kComponents))
        throw EngineError("the fault word " + std::to_string(word) + " names component " + std::to_string(number) +
                          "; it must be 1 to " + std::to_string(std::size(kComponents)) + ": please report it.");
    const std::string component = kComponents[number - 1];
    std::string where;
    if (number != kVaeDecoder)
        where = std::string(" in phase ") + (number == kTransformerLow || number == kMlpHead ? "low" : "high") + ", step " +
                std::to_string(word >> 8);
    throw EngineError(component + " gave values that are not finite" + where +
                      "; if the bundle is in half precision, build " + component + " with fp32 or bf16.");
}

}  // namespace himar::core
