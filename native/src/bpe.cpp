#include "bpe.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>

#include "scanner.h"

namespace gpt2kit {
namespace {

constexpr size_t kMaxTextBytes = INT32_MAX - 1;
// Fewer bytes than this are done before a second thread has started.
constexpr size_t kMinBytesPerThread = 64 * 1024;
constexpr size_t kMaxSpares = 16;
// Most of an English text's pieces are one token of four or five bytes.
constexpr size_t kBytesPerTokenGuess = 4;

const uint8_t* as_bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

int32_t count_chars(const uint8_t* p, const uint8_t* end) {
  int32_t count = 0;
  for (; p < end; ++p) count += !is_continuation(*p);
  return count;
}

}  // namespace

// Takes a warm scratch, or makes one, and gives it back. Never waits for another thread.
class Bpe::ScratchLease {
 public:
  explicit ScratchLease(Core& core) : core_(core) {
    std::unique_lock<std::mutex> lock(core.spare_mutex, std::try_to_lock);
    if (lock.owns_lock() && !core.spare.empty()) {
      scratch_ = std::move(core.spare.back());
      core.spare.pop_back();
    }
    if (!scratch_) scratch_ = std::make_unique<Scratch>();
  }
  ~ScratchLease() {
    std::unique_lock<std::mutex> lock(core_.spare_mutex, std::try_to_lock);
    if (lock.owns_lock() && core_.spare.size() < kMaxSpares) core_.spare.push_back(std::move(scratch_));
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  Scratch& operator*() const { return *scratch_; }

 private:
  Core& core_;
  std::unique_ptr<Scratch> scratch_;
};

// Turns byte positions, asked for in rising order, into character positions, and counts words.
class Bpe::OffsetCounter {
 public:
  explicit OffsetCounter(std::string_view text)
      : begin_(as_bytes(text)), end_(begin_ + text.size()), p_(begin_) {}

  // Bytes that stand before the text and not in it: the space of prefix_space.
  void start_stretch(size_t begin, size_t virtual_bytes) {
    stretch_ = begin;
    virtual_ = virtual_bytes;
  }

  // A token at bytes [begin, end) of the stretch.
  void add(size_t begin, size_t end, Details& details) {
    const uint8_t* from = begin_ + stretch_ + (begin > virtual_ ? begin - virtual_ : 0);
    const uint8_t* to = begin_ + stretch_ + (end > virtual_ ? end - virtual_ : 0);
    advance(from);
    // The character that the virtual space is put before counts as its own, as in `tokenizers`.
    const bool is_virtual = from == to;
    const uint8_t* char_end = to + is_virtual;
    if (is_virtual) {
      while (char_end < end_ && is_continuation(*char_end)) ++char_end;
    }
    details.begin.push_back(chars_ - (is_virtual || !is_continuation(*from) ? 0 : 1));
    details.end.push_back(chars_ + count_chars(p_, char_end));
    details.word.push_back(word_);
  }
  void next_word() { ++word_; }

 private:
  void advance(const uint8_t* to) {
    chars_ += count_chars(p_, to);
    p_ = std::max(p_, to);
  }

  const uint8_t* begin_;
  const uint8_t* end_;
  const uint8_t* p_;
  size_t stretch_ = 0;
  size_t virtual_ = 0;
  int32_t chars_ = 0;  // characters that start before p_
  int32_t word_ = 0;
};

Bpe::Bpe(Vocabulary vocabulary, bool ignore_merges) : core_(std::make_shared<Core>()) {
  core_->vocabulary = std::move(vocabulary);
  core_->ignore_merges = ignore_merges;
  core_->has_all_bytes = true;
  for (int byte = 0; byte < 256; ++byte)
    core_->has_all_bytes &= core_->vocabulary.byte_token(static_cast<uint8_t>(byte)) != kNoToken;
}

Bpe::Bpe(std::shared_ptr<Core> core, AddedTokens added_tokens, int32_t unknown)
    : core_(std::move(core)), added_tokens_(std::move(added_tokens)), unknown_(unknown) {}

Bpe Bpe::with_added_tokens(std::vector<AddedToken> tokens, int32_t unknown) const {
  return Bpe(core_, AddedTokens(std::move(tokens)), unknown);
}

int32_t Bpe::known(int32_t id) const {
  if (id != kNoToken) return id;
  if (unknown_ == kNoToken)
    throw EncodingError(
        "the text has a byte that the vocabulary has no token for, and there is no unk_token to stand for "
        "it");
  return unknown_;
}

size_t Bpe::encode_piece(const uint8_t* piece, size_t size, Scratch& scratch) const {
  auto& ids = scratch.ids;
  if (ids.size() < size) ids.resize(size);
  size_t count = 0;
  if (core_->ignore_merges) {
    const int32_t whole = core_->vocabulary.find_bytes({reinterpret_cast<const char*>(piece), size});
    if (whole != kNoToken) ids[count++] = whole;
  }
  if (count == 0) {
    for (size_t i = 0; i < size; ++i) ids[i] = core_->vocabulary.byte_token(piece[i]);
    count = merge_piece(core_->vocabulary, ids.data(), size, scratch.merge);
  }
  if (size <= PieceCache::kShortBytes && count <= PieceCache::kShortIds) {
    scratch.cache.put_short(PieceCache::short_key(piece, size, size), ids.data(), count);
  } else if (size <= PieceCache::kLongBytes && count <= PieceCache::kLongIds) {
    scratch.cache.put_long(piece, size, ids.data(), count);
  }
  return count;
}

template <bool kWithDetails>
void Bpe::encode_stretch(std::string_view text, Scratch& scratch, Encoded& out,
                         OffsetCounter* counter) const {
  const uint8_t* const begin = as_bytes(text);
  const uint8_t* const end = begin + text.size();
  auto& ids = out.ids;
  for (const uint8_t* p = begin; p < end;) {
    const uint8_t* const stop = next_piece(p, end);
    const auto size = static_cast<size_t>(stop - p);
    const int32_t* found = nullptr;
    size_t count = 0;
    if (size <= PieceCache::kShortBytes) {
      const auto key = PieceCache::short_key(p, size, static_cast<size_t>(end - p));
      if (const auto* slot = scratch.cache.find_short(key)) {
        found = slot->ids;
        count = static_cast<size_t>(slot->count);
      }
    }
    if (!found && size <= PieceCache::kLongBytes) {
      if (const auto* slot = scratch.cache.find_long(p, size)) {
        found = slot->ids;
        count = slot->count;
      }
    }
    if (!found) {
      count = encode_piece(p, size, scratch);
      found = scratch.ids.data();
    }
    if (kWithDetails) {
      auto at = static_cast<size_t>(p - begin);
      for (size_t i = 0; i < count; ++i) {
        const size_t token_bytes = found[i] == kNoToken ? 1 : core_->vocabulary.bytes(found[i]).size();
        counter->add(at, at + token_bytes, out.details);
        at += token_bytes;
      }
      counter->next_word();
    }
    if (core_->has_all_bytes) {
      ids.insert(ids.end(), found, found + count);
    } else {
      for (size_t i = 0; i < count; ++i) ids.push_back(known(found[i]));
    }
    p = stop;
  }
}

void Bpe::encode_text(std::string_view text, EncodeOptions options, bool with_details, Scratch& scratch,
                      Encoded& out) const {
  auto& stretches = scratch.stretches;
  if (added_tokens_.empty()) {
    stretches.assign(text.empty() ? 0 : 1, {0, text.size(), kNoToken});
  } else {
    added_tokens_.split(text, options.split_special, stretches);
  }
  OffsetCounter counter(text);
  for (const Stretch& stretch : stretches) {
    if (stretch.id != kNoToken) {
      out.ids.push_back(stretch.id);
      if (with_details) {
        counter.start_stretch(stretch.begin, 0);
        counter.add(0, stretch.end - stretch.begin, out.details);
        counter.next_word();
      }
      continue;
    }
    std::string_view part = text.substr(stretch.begin, stretch.end - stretch.begin);
    const bool add_space = options.prefix_space && part[0] != ' ';
    if (add_space) {
      scratch.prefixed.assign(1, ' ').append(part);
      part = scratch.prefixed;
    }
    if (with_details) {
      counter.start_stretch(stretch.begin, add_space);
      encode_stretch<true>(part, scratch, out, &counter);
    } else {
      encode_stretch<false>(part, scratch, out, nullptr);
    }
  }
}

EncodedBatch Bpe::encode(const std::vector<std::string_view>& texts, EncodeOptions options, bool with_details,
                         unsigned num_threads) const {
  size_t total_bytes = 0;
  for (const std::string_view text : texts) {
    if (text.size() > kMaxTextBytes)
      throw EncodingError("a text has " + std::to_string(text.size()) + " bytes; at most " +
                          std::to_string(kMaxTextBytes) + " can be encoded at once, split it");
    total_bytes += text.size();
  }
  EncodedBatch batch;
  batch.row_splits.assign(texts.size() + 1, 0);
  const size_t useful = std::min(total_bytes / kMinBytesPerThread, texts.size());
  const size_t workers = std::max<size_t>(1, std::min<size_t>(num_threads, useful));

  // Texts are dealt out in chunks of about equal bytes, several a worker, taken as workers become free.
  struct Chunk {
    size_t first, last;
    Encoded rows;
  };
  std::vector<Chunk> chunks;
  const size_t chunk_bytes = workers == 1 ? SIZE_MAX : total_bytes / (workers * 8) + 1;
  for (size_t first = 0, last = 0; first < texts.size(); first = last) {
    size_t bytes = 0;
    while (last < texts.size() && (last == first || bytes + texts[last].size() <= chunk_bytes))
      bytes += texts[last++].size();
    chunks.push_back({first, last, {}});
    chunks.back().rows.ids.reserve(bytes / kBytesPerTokenGuess);
  }
  std::atomic<size_t> next_chunk{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    try {
      const ScratchLease scratch(*core_);
      for (size_t c; (c = next_chunk.fetch_add(1)) < chunks.size();) {
        for (size_t i = chunks[c].first; i < chunks[c].last; ++i) {
          const size_t before = chunks[c].rows.ids.size();
          encode_text(texts[i], options, with_details, *scratch, chunks[c].rows);
          batch.row_splits[i + 1] = static_cast<int64_t>(chunks[c].rows.ids.size() - before);
        }
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      error = std::current_exception();
      next_chunk = chunks.size();
    }
  };
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < workers; ++i) threads.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those that started, and this one, do all the work.
  }
  work();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);

  for (size_t i = 0; i < texts.size(); ++i) batch.row_splits[i + 1] += batch.row_splits[i];
  if (chunks.size() == 1) {
    batch.rows = std::move(chunks[0].rows);
    return batch;
  }
  const auto gather = [&](auto member) {
    std::vector<int32_t>& all = member(batch.rows);
    size_t size = 0;
    for (Chunk& chunk : chunks) size += member(chunk.rows).size();
    all.reserve(size);
    for (Chunk& chunk : chunks) {
      all.insert(all.end(), member(chunk.rows).begin(), member(chunk.rows).end());
      member(chunk.rows) = {};
    }
  };
  gather([](Encoded& rows) -> std::vector<int32_t>& { return rows.ids; });
  gather([](Encoded& rows) -> std::vector<int32_t>& { return rows.details.begin; });
  gather([](Encoded& rows) -> std::vector<int32_t>& { return rows.details.end; });
  gather([](Encoded& rows) -> std::vector<int32_t>& { return rows.details.word; });
  return batch;
}

void Bpe::decode(const int64_t* ids, size_t count, std::string& out) const {
  for (size_t i = 0; i < count; ++i) {
    if (core_->vocabulary.has_id(ids[i])) {
      out += core_->vocabulary.bytes(static_cast<int32_t>(ids[i]));
      continue;
    }
    if (const AddedToken* token = added_tokens_.find(ids[i])) out += token->content;
  }
}

}  // namespace gpt2kit
