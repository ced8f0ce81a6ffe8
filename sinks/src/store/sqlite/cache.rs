//! Blocks of the audit that were read lately, bounded in bytes: an entry may be as long as an event.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::store::block::Block;
use crate::store::sqlite::audit::Removed;

/// Bytes of decoded blocks that were read lately; a usual block has about 60 KB.
const CACHED_BYTES: usize = 32 << 20;

/// Blocks by their first entry, each with the moment as of which it was read.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    pub(crate) blocks: HashMap<u64, (Removed, Arc<Block>)>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn keep(&mut self, removed: Removed, block: Arc<Block>) {
        while self.bytes + block.texts.len() > CACHED_BYTES
            // Which one goes hardly matters: the next page needs its neighbours, not these.
            && let Some(first) = self.blocks.keys().next().copied()
        {
            self.drop_block(first);
        }
        self.drop_block(block.first);
        self.bytes += block.texts.len();
        self.blocks.insert(block.first, (removed, block));
    }

    fn drop_block(&mut self, first: u64) {
        if let Some((_, block)) = self.blocks.remove(&first) {
            self.bytes -= block.texts.len();
        }
    }
}
