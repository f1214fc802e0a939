//! What a builder pod needs to make an image: of each image either how to fetch it, or which files of it come.

use ocne_container::{Delegation, Digest, SentFile, SentImage};
use serde::{Deserialize, Serialize};

use crate::Recipe;

/// An image that another machine is to make. It may have a secret, so it goes over trusted lines only, and into no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The image that holds the commit.
    pub source: Input,
    /// The image with nginx; none for our own server.
    pub base: Option<Input>,
    /// Our own server, for an image without a base.
    pub server: Option<SentFile>,
    /// What it is made like.
    pub recipe: Recipe,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// The other machine fetches it itself.
    Fetch(Box<Delegation>),
    /// It gets its files.
    Sent(SentImage),
}

/// A file that the other machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderFile {
    /// The source's configuration.
    SourceConfig,
    /// A layer of the source, by its number from 0 on.
    SourceLayer(usize),
    /// The base's configuration.
    BaseConfig,
    /// A layer of the base.
    BaseLayer(usize),
    /// Our own server.
    Server,
}

impl Order {
    /// The files that the other machine gets, in the order of their numbers.
    pub fn files(&self) -> Vec<(OrderFile, Digest, u64)> {
        let mut files = Vec::new();
        let mut add = |image: &SentImage, config, layer: fn(usize) -> OrderFile| {
            files.push((config, image.config.digest, image.config.size_bytes));
            for (index, sent) in image.layers.iter().enumerate() {
                files.push((layer(index), sent.file.digest, sent.file.size_bytes));
            }
        };
        if let Input::Sent(image) = &self.source {
            add(image, OrderFile::SourceConfig, OrderFile::SourceLayer);
        }
        if let Some(Input::Sent(image)) = &self.base {
            add(image, OrderFile::BaseConfig, OrderFile::BaseLayer);
        }
        files.extend(self.server.iter().map(|s| (OrderFile::Server, s.digest, s.size_bytes)));
        files
    }
}
