#pragma once

// GPT-2's byte-level BPE: text to token ids, with offsets, alone or in batches on a few threads.

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "merge.h"
#include "piece_cache.h"
#include "vocabulary.h"

namespace gpt2kit {

// A text that cannot be encoded as asked; the message says why.
struct EncodingError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct EncodeOptions {
  bool split_special = false;  // special tokens in the text are ordinary text
  bool prefix_space = false;   // a space goes before every stretch of text that does not start with one
};

// Where tokens come from, one entry a token.
struct Details {
  std::vector<int32_t> begin, end;  // characters of the text; a token inside a character covers all of it
  std::vector<int32_t> word;        // number of the piece or added token in the text, from 0
};

// A growing array of ids that is written through a pointer and never filled before it is.
class IdBuffer {
 public:
  size_t size() const { return size_; }
  const int32_t* data() const { return data_.get(); }
  // Makes room for `count` more and returns where they go; count them with advance().
  int32_t* reserve(size_t count) {
    if (size_ + count > capacity_) grow(count);
    return data_.get() + size_;
  }
  void advance(size_t count) { size_ += count; }
  void push_back(int32_t id) {
    *reserve(1) = id;
    ++size_;
  }
  std::unique_ptr<int32_t[]> release() { return std::move(data_); }

 private:
  void grow(size_t count);

  std::unique_ptr<int32_t[]> data_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

struct Encoded {
  IdBuffer ids;
  Details details;  // empty unless asked for
};

// Many texts, one after the other: row r is [row_splits[r], row_splits[r + 1]).
struct EncodedBatch {
  Encoded rows;
  std::vector<int64_t> row_splits;
};

class Bpe {
 public:
  // ignore_merges: a piece that is a token as a whole becomes that token whatever the merges say.
  Bpe(Vocabulary vocabulary, bool ignore_merges);

  // The same vocabulary, and caches, with other added tokens. unknown: the id for bytes that the vocabulary
  // has no token for; kNoToken makes them an error.
  Bpe with_added_tokens(std::vector<AddedToken> tokens, int32_t unknown) const;

  bool ignore_merges() const { return core_->ignore_merges; }
  const Vocabulary& vocabulary() const { return core_->vocabulary; }

  // Texts of up to 2^31 - 2 bytes; bytes that are not UTF-8 are encoded too. Throws EncodingError.
  EncodedBatch encode(const std::vector<std::string_view>& texts, EncodeOptions options, bool with_details,
                      unsigned num_threads) const;

  // Appends what the ids stand for; ids that nobody knows stand for nothing.
  void decode(const int64_t* ids, size_t count, std::string& out) const;

 private:
  struct Scratch {
    PieceCache cache;
    MergeBuffers merge;
    std::vector<int32_t> ids;
    std::vector<Stretch> stretches;
    std::string prefixed;
  };
  struct Core {
    Vocabulary vocabulary;
    bool ignore_merges;
    bool has_all_bytes;
    // Caches wait here between calls, so that short texts find them warm.
    std::mutex spare_mutex;
    std::vector<std::unique_ptr<Scratch>> spare;
  };
  class ScratchLease;
  class OffsetCounter;

  Bpe(std::shared_ptr<Core> core, AddedTokens added_tokens, int32_t unknown);
  void encode_text(std::string_view text, EncodeOptions options, bool with_details, Scratch& scratch,
                   Encoded& out) const;
  template <bool kWithDetails>
  void encode_stretch(std::string_view text, Scratch& scratch, Encoded& out, OffsetCounter* counter) const;
  // Merges a piece that is not in the cache, and puts it there. The ids live until the next call.
  PieceCache::Ids encode_piece(const uint8_t* piece, size_t size, Scratch& scratch) const;
  void put_ids(PieceCache::Ids ids, IdBuffer& out) const;
  void add_details(PieceCache::Ids ids, OffsetCounter& counter, Details& details) const;
  int32_t known(int32_t id) const;

  std::shared_ptr<Core> core_;
  AddedTokens added_tokens_;
  int32_t unknown_ = kNoToken;
};

}  // namespace gpt2kit
