#include "bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
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
// The latency of the third-level cache over the time that a piece takes.
constexpr size_t kPiecesAhead = 16;
// Most of an English text's pieces are one token of four or five bytes.
constexpr size_t kBytesPerTokenGuess = 4;

const uint8_t* as_bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

}  // namespace

void IdBuffer::grow(size_t count) {
  const size_t capacity = std::max(size_ + count, capacity_ * 2);
  std::unique_ptr<int32_t[]> data(new int32_t[capacity]);
  std::copy(data_.get(), data_.get() + size_, data.get());
  data_ = std::move(data);
  capacity_ = capacity;
}

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

// Follows the tokens of a text and turns their places in bytes into characters.
class Bpe::OffsetCounter {
 public:
  // virtual_space: a space stands before `stretch` that is not in the text.
  void start_stretch(std::string_view stretch, bool virtual_space) {
    p_ = as_bytes(stretch);
    end_ = p_ + stretch.size();
    virtual_bytes_ = virtual_space;
  }

  // The next token has this many bytes.
  void add(size_t size, Details& details) {
    const size_t unreal = std::min(size, virtual_bytes_);
    virtual_bytes_ -= unreal;
    const uint8_t* const stop = p_ + (size - unreal);
    const int32_t first = chars_ - (p_ < end_ && is_continuation(*p_));
    for (; p_ < stop; ++p_) chars_ += !is_continuation(*p_);
    details.begin.push_back(first);
    // A token that is only the virtual space counts as the character after it, as in `tokenizers`.
    details.end.push_back(size == unreal ? first + 1 : chars_);
    details.word.push_back(word_);
  }
  void next_word() { ++word_; }

 private:
  const uint8_t* p_ = nullptr;
  const uint8_t* end_ = nullptr;
  size_t virtual_bytes_ = 0;
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

PieceCache::Ids Bpe::encode_piece(const uint8_t* piece, size_t size, Scratch& scratch) const {
  auto& ids = scratch.ids;
  if (ids.size() < size + PieceCache::kBlock) ids.resize(size + PieceCache::kBlock);
  size_t count = 0;
  if (core_->ignore_merges) {
    const int32_t whole = core_->vocabulary.find_bytes({reinterpret_cast<const char*>(piece), size});
    if (whole != kNoToken) ids[count++] = whole;
  }
  if (count == 0) {
    for (size_t i = 0; i < size; ++i) ids[i] = core_->vocabulary.byte_token(piece[i]);
    count = merge_piece(core_->vocabulary, ids.data(), size, scratch.merge);
  }
  if (size <= PieceCache::kShortBytes) {
    scratch.cache.put_short(PieceCache::short_key(piece, size, size), ids.data(), count);
  } else if (size <= PieceCache::kLongBytes && count <= PieceCache::kLongIds) {
    scratch.cache.put_long(piece, size, ids.data(), count);
  }
  return {ids.data(), count};
}

inline void Bpe::add_details(PieceCache::Ids ids, OffsetCounter& counter, Details& details) const {
  for (size_t i = 0; i < ids.count; ++i)
    counter.add(ids.data[i] == kNoToken ? 1 : core_->vocabulary.num_bytes(ids.data[i]), details);
  counter.next_word();
}

// Copies whole blocks: cheaper than asking how much of one there is.
inline void Bpe::put_ids(PieceCache::Ids ids, IdBuffer& out) const {
  constexpr size_t kBlock = PieceCache::kBlock;
  int32_t* const to = out.reserve(ids.count + kBlock);
  std::memcpy(to, ids.data, kBlock * sizeof(int32_t));
  for (size_t i = kBlock; i < ids.count; i += kBlock)
    std::memcpy(to + i, ids.data + i, kBlock * sizeof(int32_t));
  if (!core_->has_all_bytes) {
    for (size_t i = 0; i < ids.count; ++i) to[i] = known(to[i]);
  }
  out.advance(ids.count);
}

// Pieces are cut a few ahead of the look-up, so that the cache's lines are on their way when they are needed.
template <bool kWithDetails>
void Bpe::encode_stretch(std::string_view text, Scratch& scratch, Encoded& out,
                         OffsetCounter* counter) const {
  struct Piece {
    const uint8_t* begin;
    size_t size;
    PieceCache::ShortKey key;
    size_t set;
  };
  Piece pieces[kPiecesAhead];
  const uint8_t* const end = as_bytes(text) + text.size();
  for (const uint8_t* p = as_bytes(text); p < end;) {
    size_t num_pieces = 0;
    for (; num_pieces < kPiecesAhead && p < end; ++num_pieces) {
      const uint8_t* const stop = next_piece(p, end);
      Piece& piece = pieces[num_pieces];
      piece.begin = p;
      piece.size = static_cast<size_t>(stop - p);
      if (piece.size <= PieceCache::kShortBytes) {
        piece.key = PieceCache::short_key(p, piece.size, static_cast<size_t>(end - p));
        piece.set = PieceCache::short_set(piece.key);
        scratch.cache.prefetch_short(piece.set);
      }
      p = stop;
    }
    for (size_t i = 0; i < num_pieces; ++i) {
      const Piece& piece = pieces[i];
      PieceCache::Ids ids{nullptr, 0};
      if (piece.size <= PieceCache::kShortBytes) {
        ids = scratch.cache.find_short(piece.key, piece.set);
      } else if (piece.size <= PieceCache::kLongBytes) {
        ids = scratch.cache.find_long(piece.begin, piece.size);
      }
      if (!ids.data) ids = encode_piece(piece.begin, piece.size, scratch);
      if (kWithDetails) add_details(ids, *counter, out.details);
      put_ids(ids, out.ids);
    }
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
  OffsetCounter counter;
  for (const Stretch& stretch : stretches) {
    if (stretch.id != kNoToken) {
      out.ids.push_back(stretch.id);
      if (with_details) {
        counter.start_stretch(text.substr(stretch.begin, stretch.end - stretch.begin), false);
        counter.add(stretch.end - stretch.begin, out.details);
        counter.next_word();
      }
      continue;
    }
    std::string_view part = text.substr(stretch.begin, stretch.end - stretch.begin);
    const bool add_space = options.prefix_space && part[0] != ' ';
    if (with_details) counter.start_stretch(part, add_space);
    if (add_space) {
      scratch.prefixed.assign(1, ' ').append(part);
      part = scratch.prefixed;
    }
    if (with_details) {
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
  size_t num_ids = 0;
  for (const Chunk& chunk : chunks) num_ids += chunk.rows.ids.size();
  batch.rows.ids.reserve(num_ids);
  for (Chunk& chunk : chunks) {
    const IdBuffer& ids = chunk.rows.ids;
    std::copy(ids.data(), ids.data() + ids.size(), batch.rows.ids.reserve(ids.size()));
    batch.rows.ids.advance(ids.size());
    chunk.rows.ids = {};
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
