#include "families/hmar/lane.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "families/hmar/faults.h"

namespace himar::core::hmar {
namespace {

std::size_t bytes_of_floats(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }

}  // namespace

HmarLane::HmarLane(Networks networks, const HmarModel& model, std::shared_ptr<const Constants> constants,
                   std::int64_t max_batch)
    : QueuedLane(std::move(networks)),
      model_(model),
      constants_(std::move(constants)),
      max_batch_(max_batch),
      stages_(model.stages()) {
    if (queue().runs_at_once()) return;
    queue().make_current();  // the calling thread may not have used this device before
    batch_ = max_batch;
    reserve({});
}

HmarLane::~HmarLane() { settle(); }

bool HmarLane::generate(const Chunk& chunk, const Settings& settings, std::uint8_t* pixels) {
    const auto& sampling = static_cast<const Sampling&>(settings);
    const std::vector<Forward> forwards = plan(sampling, model_.scales);
    begin(chunk, sampling, forwards);
    const Buffers& b = *buffers_;
    const std::int64_t latent = batch_ * model_.latent_channels * model_.scales.side() * model_.scales.side();
    auto next = forwards.begin();
    for (std::size_t scale = 0; scale < model_.scales.count(); ++scale) {
        const auto end = std::find_if(next, forwards.end(), [&](const Forward& each) { return each.scale != scale; });
        queue_scale({next, end}, sampling, chunk);
        next = end;
        if (queue().runs_at_once()) check_fault();
        if (!is_asked()) continue;
        float* const staged = staged_.get() + static_cast<std::int64_t>(scale % 2) * latent;
        queue().fetch(staged, b.latent, bytes_of_floats(latent));
        if (!report({scale, stages_[scale].c_str(), 0, 1}, staged, staged)) return false;
    }
    if (pixels != nullptr)
        queue_decoding({b.latent, b.image, b.pixels, b.fault, batch_, model_.latent_channels, model_.scales.side(),
                        model_.image_side()},
                       nullptr, 0);
    if (!report_last()) return false;
    fetch_results(pixels);
    if (sampling.smooth) std::fill(codes_.begin(), codes_.end(), -1);
    return true;
}

// Have room for the chunk, and what its settings need besides: the places of earlier runs are given up where there was
// less.
void HmarLane::reserve(const Sampling& sampling) {
    const auto has_room = [&](const auto& made) { return made && made->batch >= batch_; };
    if (!buffers_ || buffers_->batch() < batch_) {
        networks_.forget_places();
        buffers_.reset();
        buffers_.emplace(model_, batch_, queue());
        const std::int64_t latent = batch_ * model_.latent_channels * model_.scales.side() * model_.scales.side();
        staged_ = std::static_pointer_cast<float>(queue().allocate_staging(2 * bytes_of_floats(latent)));
    }
    if (sampling.smooth && !has_room(smooth_)) smooth_.emplace(model_, batch_, queue());
    if (!sampling.all_scales) return;
    for (VarStage* const stage : {&var_trunk_, &var_tail_}) {
        const bool is_trunk = stage == &var_trunk_;
        const char* const name = is_trunk ? kVarTrunk : kVarTail;
        stage->engine = networks_.need(name);
        if (stage->engine == nullptr)
            throw InputError(std::string("all_scales is set, but this bundle has no component ") + name +
                             "; a model has it whose blocks are not all in trunk or tail.");
        stage->blocks = is_trunk ? model_.base() : model_.tail;
        if (has_room(stage->past)) continue;
        networks_.forget_places();
        stage->past.reset();
        stage->past.emplace(model_, stage->blocks, batch_, queue());
    }
}

// Upload what the chunk's forwards need, and run `conditions`.
void HmarLane::begin(const Chunk& chunk, const Sampling& sampling, const std::vector<Forward>& forwards) {
    batch_ = static_cast<std::int64_t>(chunk.labels.size());
    reserve(sampling);
    const Buffers& b = *buffers_;
    images_.clear();
    for (const ImageOrigin& origin : chunk.origins) images_.push_back(origin.index);
    queue().upload(b.origins, chunk.origins.data(), chunk.origins.size() * sizeof(ImageOrigin));
    std::vector<i64> rows(chunk.labels.begin(), chunk.labels.end());
    std::replace(rows.begin(), rows.end(), i64{kNoClass}, i64{model_.classes});
    rows.resize(2 * chunk.labels.size(), model_.classes);  // the row of no class
    queue().upload(b.class_row, rows.data(), rows.size() * sizeof(i64));
    queue().clear(b.fault, sizeof(u32));
    redrawn_.clear();
    if (chunk.edit != nullptr) {
        upload_edited(*chunk.edit, forwards);
        queue_encoding(*chunk.edit);
    }
    queue().clear(b.latent, bytes_of_floats(batch_ * model_.latent_channels * model_.scales.side() * model_.scales.side()));
    queue_conditions(sampling.guidance != 0 ? 2 : 1);
}

// Rows of no class are of use under guidance alone.
void HmarLane::queue_conditions(std::int64_t halves) {
    const Buffers& b = *buffers_;
    const Conditions& made = b.conditions;
    const std::int64_t R = halves * batch_, C = model_.width;
    std::vector<Place> places = {{"class_row", b.class_row, {R}}, {"cond", made.cond, {R, C}}};
    if (made.trunk != nullptr) places.emplace_back(kTrunk, made.trunk, Shape{R, model_.base(), 6, C});
    if (made.tail != nullptr) places.emplace_back(kNextScaleTail, made.tail, Shape{R, model_.tail, 6, C});
    if (made.masked != nullptr) places.emplace_back(kMaskedTail, made.masked, Shape{R, model_.tail, 6, C});
    places.emplace_back("next_scale_tail_head", made.tail_head, Shape{R, 2, C});
    if (made.masked_head != nullptr) places.emplace_back("masked_tail_head", made.masked_head, Shape{R, 2, C});
    run_engine(*networks_.find(kConditions), places);
    for (auto place = places.begin() + 1; place != places.end(); ++place)
        queue().launch(launches::check_finite(static_cast<const float*>(place->address),
                                              static_cast<u64>(place->shape.count()), b.state, b.fault, kConditionsFault));
    if (queue().runs_at_once()) check_fault();
}

void HmarLane::fetch_results(std::uint8_t* pixels) {
    check_fault();
    const Scales& scales = model_.scales;
    const std::int64_t L = scales.tokens(), side = model_.image_side();
    latents_.resize(static_cast<std::size_t>(batch_ * model_.latent_channels * scales.side() * scales.side()));
    queue().download(latents_.data(), buffers_->latent, latents_.size() * sizeof(float));
    std::vector<i64> by_scale(static_cast<std::size_t>(batch_ * L));
    queue().download(by_scale.data(), buffers_->codes, by_scale.size() * sizeof(i64));
    codes_.resize(by_scale.size());
    auto from = by_scale.cbegin();
    for (std::size_t scale = 0; scale < scales.count(); ++scale)
        for (std::int64_t image = 0; image < batch_; ++image, from += scales.cells(scale))
            std::copy(from, from + scales.cells(scale), codes_.begin() + image * L + scales.start(scale));
    if (pixels != nullptr)
        queue().download(pixels, buffers_->pixels, static_cast<std::size_t>(batch_ * side * side * 3));
}

// EngineError, naming component and scale, where a kernel met a value that was not finite.
void HmarLane::check_fault() {
    u32 word = 0;
    queue().download(&word, buffers_->fault, sizeof word);
    if (word == 0) return;
    const std::string at = " at scale " + std::to_string((word >> 8) + 1);
    switch (word & 0xFF) {
        case kConditionsFault: refuse_values(kConditions, "");
        case kNextScaleFault: refuse_values(kNextScaleTail, at);
        case kMaskedFault: refuse_values(kMaskedTail, at);
        case kEncoderFault: refuse_values(kEncoder, "");
        default: refuse_values("vae_decoder", "");
    }
}

PreviewPixels HmarLane::preview(std::int64_t first, std::int64_t images) {
    return decode_reported(reported_preview(), first, images, model_.latent_channels, model_.scales.side(), model_.image_side());
}

}  // namespace himar::core::hmar
