#include "vocabulary.h"

#include <algorithm>
#include <cstring>

namespace gpt2kit {
namespace {

constexpr uint64_t kEmptyKey = UINT64_MAX;
constexpr size_t kMaxFileBytes = size_t{1} << 28;

// Bytes that print as themselves in Latin-1 keep their character; the others take 256, 257, ... in order.
constexpr bool prints_as_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteAlphabet {
  uint16_t to_char[256];
  int16_t to_byte[324];  // -1: not in the alphabet
};
constexpr ByteAlphabet make_byte_alphabet() {
  ByteAlphabet table{};
  for (auto& byte : table.to_byte) byte = -1;
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    table.to_char[byte] = prints_as_itself(byte) ? static_cast<uint16_t>(byte) : next++;
    table.to_byte[table.to_char[byte]] = static_cast<int16_t>(byte);
  }
  return table;
}
constexpr ByteAlphabet kAlphabet = make_byte_alphabet();
static_assert(kAlphabet.to_char[' '] == 0x120 && kAlphabet.to_char[0xAD] == 323);

uint32_t hash_text(std::string_view text) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
  uint64_t hash = text.size();
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 32;
  }
  uint64_t word = 0;
  std::memcpy(&word, text.data() + i, text.size() - i);
  hash = (hash ^ word) * kMultiplier;
  hash ^= hash >> 32;  // a product's lower bits know nothing of the factors' higher ones
  return static_cast<uint32_t>(hash * kMultiplier >> 32);
}

uint64_t hash_pair(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;
  return key ^ key >> 32;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t table_size(size_t entries) {
  size_t size = 16;
  while (size < entries * 2) size *= 2;
  return size;
}

}  // namespace

uint32_t byte_to_char(uint8_t byte) { return kAlphabet.to_char[byte]; }

void append_spelt_bytes(std::string& out, std::string_view name) {
  const size_t start = out.size();
  for (size_t i = 0; i < name.size();) {
    const auto b = static_cast<uint8_t>(name[i]);
    uint32_t c = b;
    size_t length = 1;
    if (b >= 0x80 && b < 0xE0 && i + 1 < name.size()) {
      c = (b & 0x1Fu) << 6 | (static_cast<uint8_t>(name[i + 1]) & 0x3Fu);
      length = 2;
    } else if (b >= 0x80) {
      c = UINT32_MAX;
    }
    if (c >= 324 || kAlphabet.to_byte[c] < 0) {
      out.resize(start);
      out += name;
      return;
    }
    out += static_cast<char>(kAlphabet.to_byte[c]);
    i += length;
  }
}

Vocabulary::Vocabulary(std::string_view vocab_json, std::string_view merges, bool merges_are_json) {
  if (vocab_json.size() > kMaxFileBytes || merges.size() > kMaxFileBytes)
    throw VocabularyError("larger than 256 MiB; GPT-2's vocabulary has 1 MB");
  read_tokens(vocab_json);
  pending_.resize(kMaxPending);
  merges_.reserve(merges.size() / 8);
  if (merges_are_json) {
    read_merges_json(merges);
  } else {
    read_merges_text(merges);
  }
  build_pairs();
}

void Vocabulary::read_tokens(std::string_view json) {
  JsonReader reader(json);
  std::vector<NameSlot> tokens;
  tokens.reserve(json.size() / 16);
  arena_.reserve(json.size());
  int32_t max_id = kNoToken;
  reader.expect('{');
  if (!reader.take('}')) {
    do {
      const std::string_view name = reader.string();
      NameSlot token;
      token.name = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(name.size())};
      token.hash = hash_text(name);
      arena_ += name;
      reader.expect(':');
      token.id = static_cast<int32_t>(reader.integer(kMaxTokenId, "the id"));
      max_id = std::max(max_id, token.id);
      tokens.push_back(token);
    } while (reader.take(','));
    reader.expect('}');
  }
  reader.expect_end();
  if (tokens.empty()) throw VocabularyError("the vocabulary has no tokens");

  num_tokens_ = tokens.size();
  name_slots_.resize(table_size(num_tokens_));
  name_of_id_.resize(static_cast<size_t>(max_id) + 1);
  bytes_of_id_.resize(name_of_id_.size());
  std::string spelt;
  for (const NameSlot& token : tokens) {
    const std::string_view name = view(token.name);
    NameSlot& slot = name_slots_[name_slot(name, token.hash)];
    if (slot.id != kNoToken) throw VocabularyError("token " + quoted(name) + " appears twice");
    slot = token;
    Text& owner = name_of_id_[static_cast<size_t>(token.id)];
    if (owner.begin != kHole)
      throw VocabularyError("tokens " + quoted(view(owner)) + " and " + quoted(name) + " have the same id " +
                            std::to_string(token.id));
    owner = token.name;
    spelt.clear();
    append_spelt_bytes(spelt, name);
    bytes_of_id_[static_cast<size_t>(token.id)] = {static_cast<uint32_t>(arena_.size()),
                                                   static_cast<uint32_t>(spelt.size())};
    arena_ += spelt;
  }
  for (int byte = 0; byte < 256; ++byte) {
    std::string name;
    append_utf8(name, byte_to_char(static_cast<uint8_t>(byte)));
    byte_tokens_[byte] = find(name);
  }
}

// The slot of a name, or the empty one where it would go.
size_t Vocabulary::name_slot(std::string_view name, uint32_t hash) const {
  const size_t mask = name_slots_.size() - 1;
  size_t slot = hash & mask;
  while (name_slots_[slot].id != kNoToken &&
         (name_slots_[slot].hash != hash || view(name_slots_[slot].name) != name))
    slot = (slot + 1) & mask;
  return slot;
}

void Vocabulary::read_merges_text(std::string_view text) {
  check_utf8(text);
  size_t line_number = 0;
  while (!text.empty()) {
    ++line_number;
    const size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 8) == "#version") continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos)
      throw VocabularyError("line " + std::to_string(line_number) + " of the merges is " + quoted(line) +
                            ", not two tokens with a space between them");
    add_merge(line.substr(0, space), line.substr(space + 1));
  }
}

void Vocabulary::read_merges_json(std::string_view json) {
  JsonReader reader(json);
  reader.expect('[');
  if (!reader.take(']')) {
    do {
      if (reader.take('[')) {
        const std::string left(reader.string());
        reader.expect(',');
        const std::string right(reader.string());
        reader.expect(']');
        add_merge(left, right);
        continue;
      }
      const std::string_view pair = reader.string();
      const size_t space = pair.find(' ');
      if (space == std::string_view::npos)
        throw VocabularyError("merge " + std::to_string(merges_.size() + num_pending_) + " is " +
                              quoted(pair) + ", not two tokens with a space between them");
      add_merge(pair.substr(0, space), pair.substr(space + 1));
    } while (reader.take(','));
    reader.expect(']');
  }
  reader.expect_end();
}

// Merges wait until there are a few of them, so that the look-ups' cache misses overlap.
void Vocabulary::add_merge(std::string_view left, std::string_view right) {
  PendingMerge& merge = pending_[num_pending_++];
  merge.both.assign(left).append(right);
  merge.left_size = left.size();
  const std::string_view names[3] = {left, right, merge.both};
  for (int i = 0; i < 3; ++i) {
    merge.hashes[i] = hash_text(names[i]);
    __builtin_prefetch(&name_slots_[merge.hashes[i] & (name_slots_.size() - 1)]);
  }
  if (num_pending_ == kMaxPending) place_pending_merges();
}

void Vocabulary::place_pending_merges() {
  for (size_t i = 0; i < num_pending_; ++i) {
    const PendingMerge& merge = pending_[i];
    const std::string_view both = merge.both;
    const std::string_view names[3] = {both.substr(0, merge.left_size), both.substr(merge.left_size), both};
    int32_t ids[3];
    for (int k = 0; k < 3; ++k) {
      ids[k] = name_slots_[name_slot(names[k], merge.hashes[k])].id;
      if (ids[k] == kNoToken)
        throw VocabularyError("merge " + std::to_string(merges_.size()) + " (" + quoted(names[0]) + " + " +
                              quoted(names[1]) + ") needs the token " + quoted(names[k]) +
                              ", which the vocabulary does not have");
    }
    merges_.push_back({pair_key(ids[0], ids[1]), {static_cast<uint32_t>(merges_.size()), ids[2]}});
  }
  num_pending_ = 0;
}

void Vocabulary::build_pairs() {
  place_pending_merges();
  pending_ = {};
  pairs_.assign(table_size(merges_.size()), {kEmptyKey, {}});
  const size_t mask = pairs_.size() - 1;
  merged_.reserve(merges_.size());
  for (const PairSlot& merge : merges_) {
    merged_.push_back(merge.merge.id);
    size_t slot = hash_pair(merge.key) & mask;
    while (pairs_[slot].key != kEmptyKey && pairs_[slot].key != merge.key) slot = (slot + 1) & mask;
    pairs_[slot] = merge;  // of a pair that is listed twice the later rank holds, as in `tokenizers`
  }
  merges_ = {};
}

bool Vocabulary::has_id(int64_t id) const {
  return id >= 0 && id <= max_id() && name_of_id_[static_cast<size_t>(id)].begin != kHole;
}

int32_t Vocabulary::find(std::string_view name) const {
  return name_slots_[name_slot(name, hash_text(name))].id;
}

int32_t Vocabulary::find_bytes(std::string_view bytes) const {
  std::string name;
  for (const char byte : bytes) append_utf8(name, byte_to_char(static_cast<uint8_t>(byte)));
  return find(name);
}

std::string_view Vocabulary::name(int32_t id) const { return view(name_of_id_[static_cast<size_t>(id)]); }

std::string_view Vocabulary::bytes(int32_t id) const { return view(bytes_of_id_[static_cast<size_t>(id)]); }

Merge Vocabulary::merge(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = pairs_.size() - 1;
  for (size_t slot = hash_pair(key) & mask;; slot = (slot + 1) & mask) {
    if (pairs_[slot].key == key) return pairs_[slot].merge;
    if (pairs_[slot].key == kEmptyKey) return {};
  }
}

std::vector<std::pair<int32_t, int32_t>> Vocabulary::merges() const {
  std::vector<PairSlot> used;
  for (const PairSlot& slot : pairs_) {
    if (slot.key != kEmptyKey) used.push_back(slot);
  }
  std::sort(used.begin(), used.end(),
            [](const PairSlot& a, const PairSlot& b) { return a.merge.rank < b.merge.rank; });
  std::vector<std::pair<int32_t, int32_t>> result;
  for (const PairSlot& slot : used)
    result.emplace_back(static_cast<int32_t>(slot.key >> 32), static_cast<int32_t>(slot.key & UINT32_MAX));
  return result;
}

}  // namespace gpt2kit
