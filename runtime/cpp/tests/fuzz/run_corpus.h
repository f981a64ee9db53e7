// What a fuzz target tells whoever runs it over a corpus.
#pragma once

// Inputs that were read, not refused: seeds that a change of the schema turns into refusals would test nothing.
inline int inputs_read = 0;
