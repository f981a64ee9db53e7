// The queue of himar-serve: who waits, who runs with whom, who is refused, and how a request is given up.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
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
    std::vector<std::vector<std::uint64_t>> calls;  // seeds of their jobs, as they started
    Lanes lanes;

    Held(std::size_t count, std::size_t most_waiting, std::size_t most_images = 1, Clock::duration delay = 0s)
        : lanes(std::vector<Run>(count, [this](const Jobs& jobs) { return run(jobs); }),
                {count, most_waiting, most_images, delay}) {}

    std::vector<Outcome> run(const Jobs& jobs) {
        std::vector<Outcome> outcomes;
        {
            const std::lock_guard<std::mutex> guard(lock);
            calls.emplace_back();
            for (const auto& job : jobs) calls.back().push_back(job->options.seed);
        }
        started += static_cast<int>(jobs.size());
        const auto is_wanted = [](const auto& job) { return job->cancel == Cancel::kNone; };
        while (std::any_of(jobs.begin(), jobs.end(), is_wanted) && open.wait_for(1ms) != std::future_status::ready) {
        }
        for (const auto& job : jobs) {
            outcomes.emplace_back();
            outcomes.back().sentence = std::to_string(job->options.seed);
        }
        return outcomes;
    }

    void wait_for_started(int count) const {
        while (started < count) std::this_thread::sleep_for(1ms);
    }
};

std::shared_ptr<Job> job(std::uint64_t seed = 0, std::size_t images = 1, const std::string& settings = "") {
    himar::GenerateOptions options;
    options.seed = seed;
    options.labels.assign(images, 0);
    return std::make_shared<Job>(options, settings);
}

}  // namespace

TEST_SUITE_BEGIN("service");

TEST_CASE("as many jobs wait as may for all lanes, and others are refused") {
    Held held(2, 1);
    std::vector<std::shared_ptr<Job>> jobs;
    for (int i = 0; i < 4; ++i) {
        jobs.push_back(job());
        CHECK(held.lanes.submit(jobs.back()) == Lanes::Accepted::kYes);
    }
    CHECK(held.lanes.submit(job()) == Lanes::Accepted::kFull);
    held.wait_for_started(2);
    CHECK(held.lanes.submit(job()) == Lanes::Accepted::kFull);
    CHECK(held.lanes.waiting() == 2);
    CHECK(held.lanes.busy() == 2);
    held.gate.set_value();
    for (const auto& each : jobs) CHECK(held.lanes.wait(*each, Clock::now() + 10s));
    CHECK(held.lanes.wait_until_idle(Clock::now() + 10s));
    CHECK(held.started == 4);
}

TEST_CASE("jobs start in their order, and every one gets its own outcome") {
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
    CHECK(held.calls == std::vector<std::vector<std::uint64_t>>{{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}});
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

TEST_CASE("the oldest comes first with those that fit it, whatever is between them") {
    std::deque<std::shared_ptr<Job>> waiting = {job(0, 2, "a"), job(1, 1, "b"), job(2, 3, "a"), job(3, 1, "a"), job(4, 9, "b")};
    const Policy policy{1, 16, 4, 0s};
    std::vector<std::vector<std::uint64_t>> calls;
    while (!waiting.empty()) {
        calls.emplace_back();
        for (const auto& each : policy.choose(waiting, 0)) {
            calls.back().push_back(each->options.seed);
            waiting.erase(std::find(waiting.begin(), waiting.end(), each));
        }
    }
    CHECK(calls == std::vector<std::vector<std::uint64_t>>{{0, 3}, {1}, {2}, {4}});
}

TEST_CASE("jobs that wait join, and each gets its own outcome") {
    Held held(1, 8, 4);
    std::vector<std::shared_ptr<Job>> jobs;
    for (std::uint64_t seed = 0; seed < 7; ++seed) {
        jobs.push_back(job(seed));
        REQUIRE(held.lanes.submit(jobs.back()) == Lanes::Accepted::kYes);
        held.wait_for_started(1);
    }
    CHECK(held.lanes.busy() == 1);
    held.gate.set_value();
    for (std::uint64_t seed = 0; seed < 7; ++seed) {
        REQUIRE(held.lanes.wait(*jobs[seed], Clock::now() + 10s));
        CHECK(jobs[seed]->outcome.sentence == std::to_string(seed));
    }
    CHECK(held.calls == std::vector<std::vector<std::uint64_t>>{{0}, {1, 2, 3, 4}, {5, 6}});
}

TEST_CASE("a lane takes its share of all images, and one larger job alone") {
    const Policy policy{2, 16, 8, 0s};
    const auto chosen = [&](const std::deque<std::shared_ptr<Job>>& waiting, std::size_t running) {
        return policy.choose(waiting, running).size();
    };
    const std::deque<std::shared_ptr<Job>> ones(5, job());
    CHECK(chosen(ones, 0) == 3);
    CHECK(chosen(ones, 3) == 4);
    CHECK(chosen({job(0, 3), job(), job()}, 0) == 1);
    CHECK(chosen(std::deque<std::shared_ptr<Job>>(40, job()), 0) == 8);
}

TEST_CASE("others are waited for after a call of several, unless as many wait or the batch is full") {
    const Policy policy{1, 16, 4, 10ms};
    const auto now = Clock::now();
    CHECK(policy.begins({job()}, 1, 0, now) < now);
    CHECK(policy.begins({job()}, 1, 2, now + 5s) == now + 5s + 10ms);
    CHECK(policy.begins({job()}, 1, 2, now - 5s) < now + 1s);
    CHECK(policy.begins({job(), job()}, 2, 2, now) < now);
    CHECK(policy.begins({job(0, 4)}, 1, 2, now) < now);
}

TEST_CASE("lanes that are free share what waits") {
    Held held(2, 8, 8);
    const auto first = job(0), second = job(1);
    for (const auto& each : {first, second}) REQUIRE(held.lanes.submit(each) == Lanes::Accepted::kYes);
    held.wait_for_started(2);
    CHECK(held.lanes.busy() == 2);
    std::vector<std::shared_ptr<Job>> jobs;
    for (std::uint64_t seed = 2; seed < 6; ++seed) {
        jobs.push_back(job(seed));
        REQUIRE(held.lanes.submit(jobs.back()) == Lanes::Accepted::kYes);
    }
    CHECK(held.lanes.cancel(first, Cancel::kDisconnect));
    held.wait_for_started(5);  // half of the five images that are asked for, rounded up
    CHECK(held.calls.back() == std::vector<std::uint64_t>{2, 3, 4});
    held.gate.set_value();
    CHECK(held.lanes.wait_until_idle(Clock::now() + 10s));
}

TEST_CASE("a call goes on as long as one of its jobs does") {
    Held held(1, 4, 4);
    const auto running = job(0), left = job(1), stays = job(2);
    for (const auto& each : {running, left, stays}) {
        REQUIRE(held.lanes.submit(each) == Lanes::Accepted::kYes);
        held.wait_for_started(1);
    }
    CHECK(held.lanes.cancel(running, Cancel::kDisconnect));
    held.wait_for_started(3);
    CHECK(held.lanes.cancel(left, Cancel::kDisconnect));
    CHECK_FALSE(held.lanes.wait(*stays, Clock::now() + 5ms));
    held.gate.set_value();
    REQUIRE(held.lanes.wait(*stays, Clock::now() + 10s));
    CHECK(stays->outcome.sentence == "2");
}

TEST_CASE("after a call of several one that is not full waits for others, and a lone job for nobody") {
    Held held(1, 4, 2, 10s);
    held.gate.set_value();
    const auto lone = job(0);
    REQUIRE(held.lanes.submit(lone) == Lanes::Accepted::kYes);
    REQUIRE(held.lanes.wait(*lone, Clock::now() + 5s));
    Held slow(1, 4, 2, 10s);
    std::vector<std::shared_ptr<Job>> jobs;
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
        jobs.push_back(job(seed));
        REQUIRE(slow.lanes.submit(jobs.back()) == Lanes::Accepted::kYes);
        slow.wait_for_started(1);
    }
    slow.gate.set_value();
    for (const auto& each : jobs) REQUIRE(slow.lanes.wait(*each, Clock::now() + 5s));
    const auto early = job(3), late = job(4);
    REQUIRE(slow.lanes.submit(early) == Lanes::Accepted::kYes);
    CHECK_FALSE(slow.lanes.wait(*early, Clock::now() + 20ms));
    REQUIRE(slow.lanes.submit(late) == Lanes::Accepted::kYes);  // the call is full
    REQUIRE(slow.lanes.wait(*early, Clock::now() + 5s));
    CHECK(slow.calls.back() == std::vector<std::uint64_t>{3, 4});
    const auto last = job(5);
    REQUIRE(slow.lanes.submit(last) == Lanes::Accepted::kYes);
    CHECK_FALSE(slow.lanes.wait(*last, Clock::now() + 20ms));
    slow.lanes.close();  // nobody joins any more
    CHECK(slow.lanes.wait(*last, Clock::now() + 5s));
}

TEST_CASE("a lane outlives what is unexpected") {
    bool fails = true;
    Lanes lanes({[&](const Jobs& jobs) {
                    if (std::exchange(fails, false)) throw std::runtime_error("the moon is full");
                    return std::vector<Outcome>(jobs.size());
                }},
                {1, 4, 1, 0s});
    const auto first = job(), second = job();
    for (const auto& each : {first, second}) {
        REQUIRE(lanes.submit(each) == Lanes::Accepted::kYes);
        REQUIRE(lanes.wait(*each, Clock::now() + 10s));
    }
    CHECK(first->outcome.status == HIMAR_ERROR_INTERNAL);
    CHECK(first->outcome.sentence == "the request failed unexpectedly (the moon is full); see the log.");
    CHECK(second->outcome.status == HIMAR_OK);
}

TEST_CASE("many threads submit, wait and give up at once, and nothing is lost") {
    Held held(4, 3, 2, 1ms);
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
