// The queues of himar-serve: who waits where, who is refused, and how a request is given up.
#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "lanes.h"

using namespace himar::service;
using namespace std::chrono_literals;

namespace {

// Lanes whose jobs run until they are let go or given up, and give their seed as the sentence of the outcome.
struct Held {
    std::promise<void> gate;
    std::shared_future<void> open{gate.get_future()};
    std::atomic<int> started{0};
    std::mutex lock;
    std::vector<std::uint64_t> order;  // seeds of the jobs as they started
    Lanes lanes;

    Held(std::size_t count, std::size_t most_waiting)
        : lanes(std::vector<Run>(count, [this](const Job& job) { return run(job); }), most_waiting) {}

    Outcome run(const Job& job) {
        {
            const std::lock_guard<std::mutex> guard(lock);
            order.push_back(job.options.seed);
        }
        ++started;
        while (job.cancel == Cancel::kNone && open.wait_for(1ms) != std::future_status::ready) {
        }
        Outcome outcome;
        outcome.sentence = std::to_string(job.options.seed);
        return outcome;
    }

    void wait_for_started(int count) const {
        while (started < count) std::this_thread::sleep_for(1ms);
    }
};

std::shared_ptr<Job> job(std::uint64_t seed = 0) {
    himar::GenerateOptions options;
    options.seed = seed;
    return std::make_shared<Job>(options);
}

}  // namespace

TEST_SUITE_BEGIN("service");

TEST_CASE("a job goes to the lane with the fewest, and is refused when every lane has its most") {
    Held held(2, 1);
    std::vector<std::shared_ptr<Job>> jobs;
    for (int i = 0; i < 4; ++i) {
        jobs.push_back(job());
        CHECK(held.lanes.submit(jobs.back()) == Lanes::Accepted::kYes);
    }
    CHECK(held.lanes.submit(job()) == Lanes::Accepted::kFull);
    held.wait_for_started(2);
    CHECK(held.lanes.submit(job()) == Lanes::Accepted::kFull);
    std::vector<std::size_t> lanes;
    for (const auto& each : jobs) lanes.push_back(each->lane);
    CHECK(lanes == std::vector<std::size_t>{0, 1, 0, 1});
    CHECK(held.lanes.waiting() == 2);
    CHECK(held.lanes.busy() == 2);
    held.gate.set_value();
    for (const auto& each : jobs) CHECK(held.lanes.wait(*each, Clock::now() + 10s));
    CHECK(held.lanes.wait_until_idle(Clock::now() + 10s));
    CHECK(held.started == 4);
}

TEST_CASE("a lane keeps the order of its queue, and every job gets its own outcome") {
    Held held(1, 8);
    std::vector<std::shared_ptr<Job>> jobs;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        jobs.push_back(job(seed));
        REQUIRE(held.lanes.submit(jobs.back()) == Lanes::Accepted::kYes);
    }
    held.wait_for_started(1);
    CHECK_FALSE(held.lanes.wait(*jobs[0], Clock::now() + 5ms));
    held.gate.set_value();
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        REQUIRE(held.lanes.wait(*jobs[seed], Clock::now() + 10s));
        CHECK(jobs[seed]->outcome.sentence == std::to_string(seed));
        CHECK(jobs[seed]->queued >= 0);
    }
    CHECK(held.order == std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("a job that waits is dropped at once, one that runs at its next step") {
    Held held(1, 2);
    const auto running = job(), waiting = job(), last = job();
    for (const auto& each : {running, waiting, last}) REQUIRE(held.lanes.submit(each) == Lanes::Accepted::kYes);
    held.wait_for_started(1);
    CHECK(held.lanes.cancel(waiting, Cancel::kDisconnect));
    CHECK_FALSE(held.lanes.cancel(waiting, Cancel::kTimeout));
    CHECK(waiting->cancel == Cancel::kDisconnect);
    CHECK(held.lanes.waiting() == 1);
    CHECK(held.lanes.wait(*waiting, Clock::now()));
    CHECK(held.lanes.submit(job()) == Lanes::Accepted::kYes);
    CHECK(held.lanes.cancel(running, Cancel::kTimeout));
    held.wait_for_started(2);
    held.gate.set_value();
    CHECK(held.lanes.wait_until_idle(Clock::now() + 10s));
    CHECK(last->finished);
    CHECK_FALSE(held.lanes.cancel(last, Cancel::kTimeout));
    CHECK(held.started == 3);  // what was dropped never ran
}

TEST_CASE("closed lanes finish what they have, and cancel_all gives up the rest") {
    Held held(1, 2);
    const auto running = job(), waiting = job();
    for (const auto& each : {running, waiting}) REQUIRE(held.lanes.submit(each) == Lanes::Accepted::kYes);
    held.wait_for_started(1);
    held.lanes.close();
    CHECK(held.lanes.submit(job()) == Lanes::Accepted::kClosed);
    CHECK_FALSE(held.lanes.wait_until_idle(Clock::now() + 5ms));
    held.lanes.cancel_all(Cancel::kDrain);
    CHECK(held.lanes.wait_until_idle(Clock::now() + 10s));
    CHECK(running->cancel == Cancel::kDrain);
    CHECK(waiting->cancel == Cancel::kDrain);
    CHECK(held.started == 1);
}

TEST_CASE("lanes that are thrown away take what they hold with them") {
    const auto running = job(), waiting = job();
    {
        Held held(1, 2);
        for (const auto& each : {running, waiting}) REQUIRE(held.lanes.submit(each) == Lanes::Accepted::kYes);
        held.wait_for_started(1);
    }
    CHECK(running->finished);
    CHECK_FALSE(waiting->finished);
    CHECK(waiting->cancel == Cancel::kDrain);
}

TEST_CASE("many threads submit, wait and give up at once, and nothing is lost") {
    Held held(4, 3);
    held.gate.set_value();
    std::atomic<int> done{0}, refused{0}, given_up{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 8; ++thread)
        threads.emplace_back([&, thread] {
            for (int i = 0; i < 200; ++i) {
                const auto mine = job(static_cast<std::uint64_t>(i));
                if (held.lanes.submit(mine) != Lanes::Accepted::kYes) {
                    ++refused;
                } else if (i % 5 == thread % 5 && held.lanes.cancel(mine, Cancel::kDisconnect)) {
                    ++given_up;
                } else {
                    while (!held.lanes.wait(*mine, Clock::now() + 1s)) {
                    }
                    if (mine->outcome.sentence == std::to_string(i)) ++done;
                }
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(done + refused + given_up == 8 * 200);
    CHECK(held.lanes.wait_until_idle(Clock::now() + 10s));
    CHECK(held.lanes.waiting() + held.lanes.busy() == 0);
}

TEST_SUITE_END();
