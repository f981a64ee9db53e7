#include "families/hi_mar/sampling.h"

#include <cmath>

#include "error.h"
#include "text.h"

namespace himar::core {
namespace {

void check_whole(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && (most == 0 || value <= most)) return;
    const std::string limits = most == 0 ? "at least " + std::to_string(least)
                                         : std::to_string(least) + " to " + std::to_string(most);
    throw InputError(std::string(name) + " is " + std::to_string(value) + "; it must be " + limits + ".");
}

void check_scale(const char* name, double value) {
    if (!std::isfinite(value) || value < 0)
        throw InputError(std::string(name) + " is " + shown(value) + "; it must be a finite number of at least 0.");
}

void check_solver(const char* name, const std::string& value) {
    if (value != "ddpm" && value != "ddim" && value != "dpm++")
        throw InputError(std::string(name) + " is " + in_quotes(value) + "; it must be 'ddpm', 'ddim' or 'dpm++'.");
}

void require_no_temperature(const Sampling& sampling) {
    if (sampling.temperature != 1)
        throw InputError("temperature is " + shown(sampling.temperature) +
                         ", but it scales the noise of reverse steps and solver " + in_quotes(sampling.high_solver) +
                         " adds none; set it to 1, or a phase's solver to 'ddpm'.");
}

void check_steps(const char* phase, std::int64_t steps, std::int64_t positions) {
    if (steps > positions)
        throw InputError(std::string(phase) + "_steps is " + std::to_string(steps) + ", but phase " + phase + " has only " +
                         std::to_string(positions) + " positions; ask for 1 to " + std::to_string(positions) + " steps.");
}

}  // namespace

void Sampling::check() const {
    check_whole("low_steps", low_steps, 1, 0);
    check_whole("high_steps", high_steps, 1, 0);
    check_whole("low_diffusion_steps", low_diffusion_steps, 2, 1000);
    check_whole("high_diffusion_steps", high_diffusion_steps, 2, 1000);
    check_scale("low_guidance", low_guidance);
    check_scale("high_guidance", high_guidance);
    check_scale("temperature", temperature);
    if (guidance_schedule != "linear" && guidance_schedule != "constant")
        throw InputError("guidance_schedule is " + in_quotes(guidance_schedule) + "; it must be 'linear' or 'constant'.");
    check_solver("low_solver", low_solver);
    check_solver("high_solver", high_solver);
    if (low_solver != "ddpm" && high_solver != "ddpm") require_no_temperature(*this);
}

void Sampling::check_positions(std::int64_t low, std::int64_t high) const {
    if (low == 0 && high_solver != "ddpm") require_no_temperature(*this);
    if (low != 0) check_steps("low", low_steps, low);
    check_steps("high", high_steps, high);
}

}  // namespace himar::core
