// Requests of several clients in one call of the engines: each gets what it would get alone.
//
// An image depends on its seed, index and label (or prompt) only, so who else is in a call changes nothing of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "job.h"

namespace himar::service {

// What became of each job. The call goes on as long as one of the jobs does. If it fails, each job that is left runs again
// alone: it is refused for its own failures only. `show` is given what a job's look found.
using Show = std::function<void(Job& job, std::string found)>;
std::vector<Outcome> run_together(Pipeline& pipeline, const Jobs& jobs, const Show& show);

}  // namespace himar::service
