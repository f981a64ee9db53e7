// What himar-serve counts and sends: a scraper reads these lines, a client these bytes.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "answer.h"
#include "bundles.h"
#include "metrics.h"

using namespace himar::service;

TEST_SUITE_BEGIN("service");

TEST_CASE("a histogram's buckets are cumulative, hold their edge, and end with everything") {
    Histogram histogram(edges_up_to(60));
    for (const double seconds : {0.0, 0.005, 0.0051, 0.75, 60.0, 61.0}) histogram.observe(seconds);
    const std::string text = histogram.text("wait", "Seconds.");
    holds(text, "# HELP wait Seconds.\n# TYPE wait histogram\nwait_bucket{le=\"0.005\"} 2\nwait_bucket{le=\"0.01\"} 3\n");
    holds(text, "wait_bucket{le=\"0.5\"} 3\nwait_bucket{le=\"1\"} 4\n");
    holds(text, "wait_bucket{le=\"30\"} 4\nwait_bucket{le=\"60\"} 5\nwait_bucket{le=\"+Inf\"} 6\n");
    holds(text, "wait_sum 121.7601\nwait_count 6\n");
}

TEST_CASE("edges end at the first that a timeout does not exceed") {
    for (const auto& [timeout, last] : std::initializer_list<std::pair<double, double>>{
             {0.5, 60}, {60, 60}, {61, 120}, {120, 120}, {600, 600}, {3000.5, 3600}, {1e6, 1e6}}) {
        const std::vector<double> edges = edges_up_to(timeout);
        CHECK(edges.back() == last);
        CHECK(std::is_sorted(edges.begin(), edges.end()));
    }
    holds(Histogram(edges_up_to(1e6)).text("wait", "Seconds."), "wait_bucket{le=\"1000000\"} 0\n");
}

TEST_CASE("the page holds every series from the start, and counts by code and reason") {
    Metrics metrics(60);
    const BuildInfo info{"0.1.0", "abc", "a\"b\\c\nd"};
    const std::string empty = metrics.text(info, 0, 0);
    for (const char* line : {"himar_images_total 0\n", "himar_request_seconds_count 0\n", "himar_queue_seconds_count 0\n",
                             "himar_queue_length 0\n", "himar_lanes_busy 0\n", "himar_cancelled_total{reason=\"timeout\"} 0\n",
                             "himar_build_info{version=\"0.1.0\",bundle=\"abc\",device=\"a\\\"b\\\\c\\nd\"} 1\n"})
        holds(empty, line);
    metrics.answered(200, 3);
    metrics.answered(200, 2);
    metrics.answered(429, 0);
    metrics.cancelled(Cancel::kDisconnect);
    metrics.took(0.2);
    metrics.queued(7);
    const std::string text = metrics.text(info, 5, 1);
    for (const char* line : {"himar_requests_total{code=\"200\"} 2\n", "himar_requests_total{code=\"429\"} 1\n",
                             "himar_images_total 5\n", "himar_cancelled_total{reason=\"disconnect\"} 1\n",
                             "himar_request_seconds_bucket{le=\"0.25\"} 1\n", "himar_queue_seconds_bucket{le=\"5\"} 0\n",
                             "himar_queue_seconds_bucket{le=\"10\"} 1\n", "himar_queue_length 5\n", "himar_lanes_busy 1\n"})
        holds(text, line);
}

TEST_CASE("base64 is that of RFC 4648") {
    const auto encoded = [](const std::string& text) { return base64(text.data(), text.size()); };
    CHECK(encoded("") == "");
    CHECK(encoded("f") == "Zg==");
    CHECK(encoded("fo") == "Zm8=");
    CHECK(encoded("foobar") == "Zm9vYmFy");
    CHECK(encoded(std::string("\0\xff\xfe", 3)) == "AP/+");
}

TEST_CASE("an error is JSON whatever bytes the sentence took over") {
    CHECK(error_json("labels is \"3\".") == R"({"error":"labels is \"3\"."})");
    const auto read = nlohmann::json::parse(error_json("no path \xff\x01\n."));
    CHECK(read["error"].is_string());
}

TEST_SUITE_END();
