#pragma once

// The tokens and merges of a byte-level BPE: reading, checking, and the look-ups that encoding needs.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json_reader.h"

namespace gpt2kit {

constexpr int32_t kNoToken = -1;
// Ids above this are refused before anything is allocated for them; GPT-2 has 50257.
constexpr uint32_t kMaxTokenId = (1u << 22) - 1;

// What two adjacent tokens become. Lower ranks merge first.
struct Merge {
  uint32_t rank = UINT32_MAX;  // UINT32_MAX: the pair does not merge
  int32_t id = kNoToken;
};

class Vocabulary {
 public:
  // An empty one can only be assigned to.
  Vocabulary() = default;
  // vocab_json: {"token": id, ...}, tokens spelt in GPT-2's byte alphabet.
  // merges: lines "left right" (merges.txt) or, if merges_are_json, ["left right" or ["left", "right"], ...].
  // Throws VocabularyError.
  Vocabulary(std::string_view vocab_json, std::string_view merges, bool merges_are_json);

  size_t size() const { return num_tokens_; }
  int32_t max_id() const { return static_cast<int32_t>(name_of_id_.size()) - 1; }

  bool has_id(int64_t id) const;
  int32_t find(std::string_view name) const;         // kNoToken if absent
  int32_t find_bytes(std::string_view bytes) const;  // by meaning instead of by spelling
  std::string_view name(int32_t id) const;           // as spelt in the file. has_id(id)
  std::string_view bytes(int32_t id) const;          // what it decodes to. has_id(id)
  size_t num_bytes(int32_t id) const { return bytes_of_id_[static_cast<size_t>(id)].size; }  // has_id(id)
  int32_t byte_token(uint8_t byte) const { return byte_tokens_[byte]; }  // kNoToken if absent
  Merge merge(int32_t left, int32_t right) const;
  int32_t merged(uint32_t rank) const { return merged_[rank]; }  // the id that the pair of this rank makes
  std::vector<std::pair<int32_t, int32_t>> merges() const;       // all pairs, by rising rank

 private:
  static constexpr uint32_t kHole = UINT32_MAX;
  struct Text {  // a slice of arena_
    uint32_t begin = kHole;
    uint32_t size = 0;
  };
  struct NameSlot {
    Text name;
    uint32_t hash = 0;
    int32_t id = kNoToken;  // kNoToken: empty
  };
  struct PendingMerge {
    std::string both;  // left and right, joined
    size_t left_size;
    uint32_t hashes[3];  // of left, right and both
  };
  struct PairSlot {
    uint64_t key;
    Merge merge;
  };

  void read_tokens(std::string_view json);
  void read_merges_text(std::string_view text);
  void read_merges_json(std::string_view json);
  void add_merge(std::string_view left, std::string_view right);
  void place_pending_merges();
  void build_pairs();
  std::string_view view(Text text) const { return {arena_.data() + text.begin, text.size}; }
  size_t name_slot(std::string_view name, uint32_t hash) const;

  std::string arena_;             // names and bytes of all tokens
  std::vector<Text> name_of_id_;  // kHole where the ids have a hole
  std::vector<Text> bytes_of_id_;
  std::vector<NameSlot> name_slots_;  // open addressing
  std::vector<PairSlot> pairs_;       // open addressing, key = left << 32 | right
  std::vector<PairSlot> merges_;      // in file order, until build_pairs
  std::vector<int32_t> merged_;       // by rank
  size_t num_tokens_ = 0;
  static constexpr size_t kMaxPending = 32;
  std::vector<PendingMerge> pending_;  // used while reading only
  size_t num_pending_ = 0;
  int32_t byte_tokens_[256];
};

// GPT-2 spells each byte as a printable character; these are its code points.
uint32_t byte_to_char(uint8_t byte);

// The bytes that a token's spelling stands for. A spelling with characters outside the byte alphabet stands
// for its own UTF-8.
void append_spelt_bytes(std::string& out, std::string_view name);

}  // namespace gpt2kit
