//! Entrances for the fuzz targets (`fuzz/`); no part of the API.

use bytes::Bytes;
use futures::stream;

use crate::{
    anthropic, chat,
    read::{self, Decode},
    responses,
};

/// A model's answer on each wire: an answer or an error, and no panic. The first byte says where the bytes are cut.
pub fn model_answer(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let decoders: [Box<dyn Decode>; 3] = [
        Box::<anthropic::Decoder>::default(),
        Box::<responses::Decoder>::default(),
        Box::<chat::Decoder>::default(),
    ];
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    for mut decoder in decoders {
        let pieces = bytes.chunks(usize::from(size).max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        _ = runtime.block_on(read::answer(stream::iter(pieces), &mut *decoder, &mut |_| {}));
    }
}
