//! The image of a server of an ostree commit, made of container images wherever they are: `ocne-container` on one side of
//! a pipe, `ocne-ostree` on the other. The same code runs in the program and in a builder pod.
//!
//! The layers are verified and written in one pass and without anything between. What came is kept nowhere else.

mod order;

use std::fs::File;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ocne_container::{Digest, FetchError, Image, LayerSender, layer_pipe};
use ocne_ostree::{
    Base, BaseImage, BaseLayer, Encapsulated, ImageOptions, Layers, OpenLayer, OstreeError, Written,
    check_documents, write_image,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use order::{Input, Order, OrderFile};

/// How often somebody looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);
/// What the image is called in its archive, and so by `podman load`.
pub const IMAGE_NAME: &str = "localhost/ock-ostree:latest";
/// The ref that clients ask for.
pub const REF_NAME: &str = "ock";

/// What an image is made like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Level of compression of the files in it, 1 to 9.
    pub level: u32,
    /// The source's name, if other machines know it by that.
    pub source_name: Option<String>,
    /// The base's.
    pub base_name: Option<String>,
}

impl Recipe {
    fn options(&self) -> ImageOptions {
        ImageOptions {
            ref_name: REF_NAME.to_owned(),
            image_name: IMAGE_NAME.to_owned(),
            level: self.level,
            workers: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            source: self.source_name.clone(),
        }
    }
}

/// What an image is made of.
#[derive(Debug)]
pub struct Images<'a> {
    /// The image that holds the commit.
    pub source: Image<'a>,
    /// The image with nginx, if it is not our own server.
    pub base: Option<Image<'a>>,
}

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    /// The caller asked for it to end.
    #[error("interrupted")]
    Interrupted,
    /// A layer did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The image was refused, or could not be written.
    #[error(transparent)]
    Ostree(#[from] OstreeError),
}

/// Which image a layer is of.
#[derive(Debug, Clone, Copy)]
enum Which {
    Source,
    Base,
}

/// A layer that is asked for: of which image, its number, and where it goes.
type Asked = (Which, usize, LayerSender);

/// What opens the layers of both images, for a thread that has no network.
pub struct Openers {
    /// The layers of the source.
    pub source: OpenLayer<'static>,
    /// The layers of the base.
    pub base: OpenLayer<'static>,
}

impl std::fmt::Debug for Openers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Openers")
    }
}

impl Images<'_> {
    /// Runs `work` on a thread of its own, and sends it the layers that it opens. `stop` ends both; `work` sets it when it
    /// failed for a reason that more layers do not explain.
    ///
    /// # Errors
    /// When a layer did not come, which explains best what `work` says.
    pub fn with_layers<T: Send>(
        &self,
        runtime: &Runtime,
        cancel: &AtomicBool,
        stop: &Arc<AtomicBool>,
        work: impl FnOnce(Openers) -> T + Send,
    ) -> Result<T, FetchError> {
        let (ask, mut asked) = unbounded_channel();
        let openers = Openers {
            source: opener(Which::Source, ask.clone(), stop),
            base: opener(Which::Base, ask, stop),
        };
        let (done, sent) = thread::scope(|scope| {
            let working = scope.spawn(|| work(openers));
            let sent = runtime.block_on(async {
                tokio::select! {
                    sent = self.send_all(&mut asked, stop) => sent,
                    () = stop_when(cancel, stop) => Err(FetchError::Interrupted),
                }
            });
            // Whoever waits for a layer hears that none comes any more.
            drop(asked);
            (working.join().unwrap_or_else(|panic| resume_unwind(panic)), sent)
        });
        match sent {
            Err(e) if !matches!(e, FetchError::Interrupted) => Err(e),
            _ => Ok(done),
        }
    }

    /// Sends the layers that are asked for, until nobody asks any more.
    async fn send_all(
        &self,
        asked: &mut UnboundedReceiver<Asked>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(), FetchError> {
        while let Some((which, index, to)) = asked.recv().await {
            let image = match which {
                Which::Source => &self.source,
                Which::Base => self.base.as_ref().unwrap_or(&self.source),
            };
            image.send(index, to, stop).await?;
        }
        Ok(())
    }

    /// The base, but for what opens its layers.
    fn base(
        &self,
        recipe: &Recipe,
        server: Option<Vec<u8>>,
    ) -> impl FnOnce(OpenLayer<'static>) -> Base<'static> + Send + use<> {
        let base = self.base.as_ref().map(|image| {
            let name = recipe.base_name.clone();
            let digest = name.as_ref().map(|_| image.digest().to_string());
            let layer = |(digest, size_bytes, media_type): (Digest, u64, Option<&str>)| BaseLayer {
                media_type: media_type.map(str::to_owned),
                digest: digest.to_string(),
                size_bytes,
            };
            (image.config().to_vec(), layers_of(image).map(layer).collect(), name, digest)
        });
        move |open| match base {
            Some((config, layers, name, digest)) => {
                Base::Image(BaseImage { config, layers, open, name, digest })
            }
            None => Base::Server { program: server.unwrap_or_default() },
        }
    }

    /// Size of all layers, as they are transferred.
    pub fn size_bytes(&self) -> u64 {
        [Some(&self.source), self.base.as_ref()]
            .into_iter()
            .flatten()
            .map(size_of)
            .fold(0, u64::saturating_add)
    }
}

/// Makes the image, and writes it into an empty file; `server` is our own server for an image without a base.
///
/// `progress` is told how many bytes of the source's layers were read.
///
/// # Errors
/// See [`MakeError`]; the file is of no use then.
pub fn make(
    images: &Images<'_>,
    server: Option<Vec<u8>>,
    recipe: &Recipe,
    file: &File,
    runtime: &Runtime,
    progress: &mut (dyn FnMut(u64) + Send),
    cancel: &AtomicBool,
) -> Result<Written, MakeError> {
    let source = Encapsulated::parse(images.source.config())?;
    let (options, base) = (recipe.options(), images.base(recipe, server));
    let sizes_bytes = layers_of(&images.source).map(|(_, size_bytes, _)| size_bytes).collect();
    let stop: Arc<AtomicBool> = Arc::default();
    let written = images.with_layers(runtime, cancel, &stop, |openers| {
        let Openers { source: open, base: open_base } = openers;
        let base = base(open_base);
        let written =
            write_image(&source, Layers { sizes_bytes, open }, base, &options, file, progress, &stop);
        // The digest of all that comes explains damage best; anything else is reason enough to stop.
        if written.as_ref().is_err_and(|e| !may_be_damage(e)) {
            stop.store(true, Ordering::Relaxed);
        }
        written
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(MakeError::Interrupted);
    }
    match written? {
        Err(OstreeError::Interrupted) => Err(MakeError::Interrupted),
        written => Ok(written?),
    }
}

/// Whether an image that was made elsewhere is the one that [`make`] makes of these images, around the layer with the
/// repository. No content of theirs is read.
///
/// # Errors
/// When it is another.
pub fn check(
    images: &Images<'_>,
    server: Option<Vec<u8>>,
    recipe: &Recipe,
    written: &Written,
) -> Result<(), OstreeError> {
    let source = Encapsulated::parse(images.source.config())?;
    source.check_commit(written.imported.checksum)?;
    let base = images.base(recipe, server)(Box::new(|_| Err(std::io::Error::other("nothing is read"))));
    check_documents(&source, base, &recipe.options(), written)
}

/// Whether it may be that the source is not what it was when it was made.
fn may_be_damage(error: &OstreeError) -> bool {
    matches!(error, OstreeError::Layer { .. } | OstreeError::Tar { .. } | OstreeError::BaseLayer { .. })
}

/// Ends when `cancel` is set, and sets `stop` then.
async fn stop_when(cancel: &AtomicBool, stop: &AtomicBool) {
    while !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep(TICK).await;
    }
    stop.store(true, Ordering::Relaxed);
}

/// What opens the layers of one of the images: it asks whoever has the network.
fn opener(which: Which, ask: UnboundedSender<Asked>, stop: &Arc<AtomicBool>) -> OpenLayer<'static> {
    let stop = Arc::clone(stop);
    Box::new(move |index| {
        let (sender, reader) = layer_pipe(&stop);
        ask.send((which, index, sender)).map_err(|_| std::io::Error::other("nothing is sent any more"))?;
        Ok(Box::new(reader))
    })
}

fn layers_of<'i>(image: &'i Image<'_>) -> impl Iterator<Item = (Digest, u64, Option<&'i str>)> {
    (0..image.layer_count()).filter_map(|index| image.layer(index))
}

/// Size of all layers of an image, as they are transferred.
pub fn size_of(image: &Image<'_>) -> u64 {
    layers_of(image).fold(0, |sum, (_, size_bytes, _)| sum.saturating_add(size_bytes))
}
