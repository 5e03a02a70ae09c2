#include "bindings.h"

namespace gpt2kit {

void bind_tokenizer(nanobind::module_&) {}

}  // namespace gpt2kit
