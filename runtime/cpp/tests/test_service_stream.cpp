// Streams of himar-serve: what a client gets and when, and what becomes of a lane whose client is slow or gone.
#include <doctest/doctest.h>

#include <future>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundles.h"
#include "openai/stream.h"

using namespace himar::service;
using namespace himar::service::openai;
using namespace std::chrono_literals;

namespace {

// A lane, and streams of its images.
struct Streams {
    explicit Streams(double timeout) : metrics(timeout), images(pipelines(), {64, 16, timeout}, metrics) {}

    static std::vector<himar::Pipeline> pipelines() {
        std::vector<himar::Pipeline> lanes;
        lanes.push_back(load(bundle("tiny")));
        return lanes;
    }

    // A stream of an image; a long one takes many seconds after its pivots, with a batch of others.
    std::shared_ptr<EventStream> start(int partial_images, bool is_long, Clock::duration silence = 10s, Look look = nullptr) {
        Generation asked{};
        asked.options.labels.assign(is_long ? 48 : 1, 1);
        asked.options.low_steps = 2;
        asked.options.high_steps = is_long ? 16 : 3;
        asked.options.low_diffusion_steps = 4;
        asked.options.high_diffusion_steps = is_long ? 1000 : 4;
        asked.size = "16x16", asked.quality = "auto", asked.format = "png";
        asked.compression = 100, asked.stream = true, asked.partial_images = partial_images;
        if (partial_images > 0) {
            const auto partials = std::make_shared<Partials>(asked, images.info());
            look = [partials](const himar::Progress& step) { return (*partials)(step); };
        }
        job = images.submit(asked.options, std::move(look));
        return std::make_shared<EventStream>(images, job, asked, [] { return false; }, silence,
                                             [this](const Answer& answer) { ended.emplace_back(answer.status, answer.images); });
    }

    double count(const std::string& name) const {
        const std::string page = metrics.text({}, 0, 0);
        const std::size_t at = page.find("\n" + name + " ");
        return at == std::string::npos ? 0 : std::stod(page.substr(at + name.size() + 2));
    }

    Metrics metrics;
    std::shared_ptr<Job> job;
    std::vector<std::pair<int, std::size_t>> ended;  // statuses and images of the streams that have ended
    Images images;
};

constexpr const char* kGone = "himar_cancelled_total{reason=\"disconnect\"}";
constexpr const char* kLate = "himar_cancelled_total{reason=\"timeout\"}";
constexpr bool kLong = true, kShort = false;

bool is_event(const std::string& part, const std::string& kind) {
    return part.rfind("event: " + kind + "\ndata: {\"type\":\"" + kind + "\",", 0) == 0 && part.substr(part.size() - 2) == "\n\n";
}

}  // namespace

TEST_SUITE_BEGIN("service_stream");

TEST_CASE("a stream is its unfinished images, then the image, and ends once") {
    for (const auto& [asked, shown] : std::vector<std::pair<int, std::size_t>>{{0, 0}, {1, 1}, {2, 2}, {3, 3}}) {
        Streams streams(60);
        std::vector<std::string> parts;
        {
            const auto stream = streams.start(asked, kShort);
            CHECK(stream->begin().stages.empty() == (asked > 0));
            CHECK(streams.ended.empty());
            CHECK(stream->write([&](const std::string& part) { return parts.push_back(part), true; }));
        }
        REQUIRE(parts.size() == shown + 1);
        for (std::size_t i = 0; i < shown; ++i) {
            CHECK(is_event(parts[i], "image_generation.partial_image"));
            holds(parts[i], "\"partial_image_index\":" + std::to_string(i) + ",");
            holds(parts[i], i == 0 ? "\"size\":\"8x8\"" : "\"size\":\"16x16\"");
        }
        CHECK(is_event(parts.back(), "image_generation.completed"));
        CHECK(streams.ended == std::vector<std::pair<int, std::size_t>>{{200, 1}});
    }
}

TEST_CASE("comments keep a quiet stream alive") {
    Streams streams(60);
    std::promise<void> heard;
    const auto stream = streams.start(0, kShort, 1ms, [until = heard.get_future().share()](const himar::Progress&) {
        until.wait();
        return std::optional<std::string>();
    });
    stream->begin();
    std::size_t comments = 0;
    std::string last;
    CHECK(stream->write([&](const std::string& part) {
        if (part != ": no news yet\n\n")
            last = part;
        else if (++comments == 2)
            heard.set_value();
        return true;
    }));
    CHECK(comments >= 2);
    CHECK(is_event(last, "image_generation.completed"));
}

TEST_CASE("a client that takes no event counts as gone, and frees the lane") {
    Streams streams(60);
    const auto stream = streams.start(1, kLong);
    stream->begin();
    CHECK_FALSE(stream->write([](const std::string&) { return false; }));
    CHECK(streams.images.lanes().wait_until_idle(Clock::now() + 10s));
    CHECK(streams.ended == std::vector<std::pair<int, std::size_t>>{{499, 0}});
    CHECK(streams.count(kGone) == 1);
}

TEST_CASE("a stream that nobody writes counts as one whose client has gone") {
    Streams streams(60);
    streams.start(1, kLong)->begin();
    CHECK(streams.images.lanes().wait_until_idle(Clock::now() + 10s));
    CHECK(streams.ended == std::vector<std::pair<int, std::size_t>>{{499, 0}});
    CHECK(streams.count(kGone) == 1);
}

TEST_CASE("a client that stops reading does not hold the lane beyond the time limit, and hears of it when it reads on") {
    Streams streams(1);
    const auto stream = streams.start(1, kLong);
    stream->begin();
    std::vector<std::string> parts;
    CHECK(stream->write([&](const std::string& part) {
        parts.push_back(part);
        return parts.size() > 1 || streams.images.lanes().wait_until_idle(Clock::now() + 10s);  // stuck until the lane is free
    }));
    CHECK(parts.front().rfind("event: image_generation.partial_image\n", 0) == 0);
    CHECK(parts.back().rfind("event: error\ndata: {\"error\":{\"message\":\"no answer within 1 s, ", 0) == 0);
    CHECK(streams.ended == std::vector<std::pair<int, std::size_t>>{{504, 0}});
    CHECK(streams.count(kLate) == 1);
}

TEST_CASE("what fails before the first event is no stream, and not counted as one") {
    Streams streams(0.2);
    {
        const auto stream = streams.start(0, kLong);
        CHECK_THROWS_AS(stream->begin(), Refusal);
    }
    CHECK(streams.ended.empty());
    CHECK(streams.count(kGone) == 0);
}

TEST_SUITE_END();
