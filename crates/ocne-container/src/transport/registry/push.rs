//! Writing to a registry: blobs that go on where they broke off, and manifests (OCI distribution specification 1.1, "Push").

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Body, RequestBuilder, Response, StatusCode, Url};

use super::Registry;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::http::{self, Attempts, Failure};
use crate::transport::FilePart;

/// How much is read at a time.
const CHUNK_BYTES: u64 = 256 << 10;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It was there before.
    Before,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
}

/// Why sending a part of a blob did not succeed.
enum Trouble {
    /// It may when it is tried again.
    Passing {
        reason: String,
        wait: Option<Duration>,
    },
    /// What was allowed for a while was so no more, and is again: nothing of it was taken.
    AskAgain,
    Lasting(FetchError),
}

impl From<FetchError> for Trouble {
    fn from(error: FetchError) -> Self {
        Self::Lasting(error)
    }
}

impl Registry<'_> {
    /// Sees that a blob is in the repository: it may be there, or in another repository, or is sent. `part` is asked for it
    /// only then; `sent_bytes` counts what of it is done with.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        size_bytes: u64,
        part: impl AsyncFnOnce() -> Result<Arc<FilePart>, FetchError>,
        mount_from: Option<&str>,
        sent_bytes: &Arc<AtomicU64>,
    ) -> Result<Arrived, FetchError> {
        let action = format!("push the blob {digest}");
        let mut attempts = Attempts::new(&self.network);
        let path = format!("blobs/{digest}");
        let head = |base: &Url| self.join(base, &path, &action).map(|url| self.http.head(url));
        if self.exchange(&action, &mut attempts, &[404], &head).await?.status().is_success() {
            sent_bytes.store(size_bytes, Ordering::Relaxed);
            return Ok(Arrived::Before);
        }
        let Some(mut place) = self.begin(digest, mount_from, &action, &mut attempts).await? else {
            sent_bytes.store(size_bytes, Ordering::Relaxed);
            return Ok(Arrived::Mounted);
        };
        attempts.reset();
        // Only now: it may have to be fetched from another registry.
        let blob = part().await?;
        let mut at_bytes = 0;
        let mut was_changed = false;
        loop {
            let counter = Arc::clone(sent_bytes);
            counter.store(at_bytes, Ordering::Relaxed);
            let sent = match self.part(&place, &blob, at_bytes, &counter, &action, &mut attempts).await {
                Ok(next) => {
                    (place, at_bytes) = (next, size_bytes);
                    self.complete(&place, digest, &action, &mut attempts).await
                }
                Err(trouble) => Err(trouble),
            };
            match sent {
                Ok(()) => return Ok(Arrived::Sent),
                Err(Trouble::AskAgain) => {
                    // At once: what is allowed now may soon be so no more.
                    if attempts.next(None).is_none() {
                        let reason = "it wants to be asked again and again".to_owned();
                        return Err(self.network_error(&action, attempts.made, reason));
                    }
                    continue;
                }
                // The digest is not right: something on the way changed it, and a second time may go better.
                Err(Trouble::Lasting(FetchError::Status { status: 400, .. }))
                    if at_bytes == size_bytes && !was_changed =>
                {
                    was_changed = true;
                    (place, at_bytes) = (self.begin_anew(digest, &action, &mut attempts).await?, 0);
                    continue;
                }
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing { reason, wait }) => {
                    self.pause(&action, &mut attempts, wait, reason).await?;
                }
            }
            match self.progress(&place, &action, &mut attempts).await? {
                Some((next, arrived_bytes)) if arrived_bytes <= size_bytes => {
                    if arrived_bytes > at_bytes {
                        attempts.reset();
                    }
                    (place, at_bytes) = (next, arrived_bytes);
                }
                // The registry has forgotten what it had of it.
                _ => {
                    (place, at_bytes) = (self.begin_anew(digest, &action, &mut attempts).await?, 0);
                }
            }
        }
    }

    /// Puts a manifest into the repository, under a tag or its digest.
    pub async fn push_manifest(
        &self,
        bytes: &[u8],
        media_type: &str,
        version: &str,
    ) -> Result<(), FetchError> {
        let action = format!("push the manifest `{version}`");
        let mut attempts = Attempts::new(&self.network);
        let path = format!("manifests/{version}");
        let put = |base: &Url| {
            let url = self.join(base, &path, &action)?;
            Ok(self.http.put(url).header(CONTENT_TYPE, media_type).body(bytes.to_vec()))
        };
        let response = self.exchange(&action, &mut attempts, &[], &put).await?;
        let expected = Digest::of(bytes);
        match response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok()) {
            Some(found) if found != expected.to_string() => {
                Err(self.protocol(&action, format!("it has stored {found} instead of {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// Begins an upload; none when the registry could take the blob from another repository.
    async fn begin(
        &self,
        digest: &Digest,
        mount_from: Option<&str>,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<Option<Url>, FetchError> {
        let post = |base: &Url| {
            let mut url = self.join(base, "blobs/uploads/", action)?;
            if let Some(from) = mount_from {
                url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
            }
            Ok(self.http.post(url).header(CONTENT_LENGTH, 0))
        };
        let response = self.exchange(action, attempts, &[], &post).await?;
        if mount_from.is_some() && response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        self.next_place(&response, action).map(Some)
    }

    /// Begins an upload that is not to be mounted.
    async fn begin_anew(
        &self,
        digest: &Digest,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<Url, FetchError> {
        let begun = self.begin(digest, None, action, attempts).await?;
        begun.ok_or_else(|| self.protocol(action, "it mounts nothing".to_owned()))
    }

    /// Where an upload goes on.
    fn next_place(&self, response: &Response, action: &str) -> Result<Url, FetchError> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location =
            location.ok_or_else(|| self.protocol(action, "it does not say where to send it".to_owned()))?;
        response.url().join(location).map_err(|e| self.protocol(action, e.to_string()))
    }

    /// Sends what is left of a blob. Returns where the upload goes on.
    async fn part(
        &self,
        place: &Url,
        blob: &Arc<FilePart>,
        at_bytes: u64,
        counter: &Arc<AtomicU64>,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<Url, Trouble> {
        if at_bytes == blob.size_bytes {
            return Ok(place.clone());
        }
        let mut request = self
            .http
            .patch(place.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size_bytes - at_bytes)
            .body(body(blob, at_bytes, counter));
        // Registries take one whole part without it, and some of them nothing else.
        if at_bytes > 0 {
            request = request.header(CONTENT_RANGE, format!("{at_bytes}-{}", blob.size_bytes - 1));
        }
        let response = self.once(request, place, counter, action, attempts).await?;
        Ok(self.next_place(&response, action)?)
    }

    /// Ends an upload; the registry compares the digest.
    async fn complete(
        &self,
        place: &Url,
        digest: &Digest,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<(), Trouble> {
        let mut url = place.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = self.http.put(url).header(CONTENT_LENGTH, 0);
        self.once(request, place, &Arc::default(), action, attempts).await.map(drop)
    }

    /// What the registry has of an upload, and where it goes on; none if it knows nothing of it.
    async fn progress(
        &self,
        place: &Url,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<Option<(Url, u64)>, FetchError> {
        let get = |_: &Url| Ok(self.http.get(place.clone()));
        // Some registries do not tell.
        let response = self.exchange(action, attempts, &[400, 404, 405, 416, 501], &get).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let arrived_bytes = arrived_bytes(response.headers());
        let next = self.next_place(&response, action).unwrap_or_else(|_| place.clone());
        Ok(arrived_bytes.map(|bytes| (next, bytes)))
    }

    /// Sends a request whose body cannot be sent again as it is, and waits for the answer as long as something moves.
    async fn once(
        &self,
        request: RequestBuilder,
        place: &Url,
        counter: &AtomicU64,
        action: &str,
        attempts: &mut Attempts,
    ) -> Result<Response, Trouble> {
        let base = self.base().await?;
        let mut request = request;
        // A registry may have uploads go elsewhere, by addresses that are secrets themselves.
        if place.origin() == base.origin()
            && let Some(authorization) = self.fresh_authorization()
        {
            let (name, value) = authorization.header();
            request = request.header(name, value);
        }
        let mut sending = std::pin::pin!(request.send());
        let response = loop {
            let before = counter.load(Ordering::Relaxed);
            match tokio::time::timeout(self.network.stall_timeout, &mut sending).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) => {
                    return Err(match http::judge_error(&error) {
                        Failure::Passing(wait) => Trouble::Passing { reason: http::explain(&error), wait },
                        Failure::Lasting => {
                            self.network_error(action, attempts.made, http::explain(&error)).into()
                        }
                    });
                }
                Err(_) if counter.load(Ordering::Relaxed) == before => {
                    let reason = "nothing moved for too long".to_owned();
                    return Err(Trouble::Passing { reason, wait: None });
                }
                Err(_) => {}
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // What was allowed for a while is so no more.
        if status == StatusCode::UNAUTHORIZED && place.origin() == base.origin() {
            self.authenticate(&base, &response, action, attempts).await?;
            return Err(Trouble::AskAgain);
        }
        match http::judge_status(status, response.headers()) {
            Failure::Passing(wait) => Err(Trouble::Passing { reason: format!("it answers {status}"), wait }),
            // It has another idea of how much arrived, or has forgotten the upload; asking it helps.
            Failure::Lasting
                if matches!(status, StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_FOUND) =>
            {
                Err(Trouble::Passing { reason: format!("it answers {status}"), wait: None })
            }
            Failure::Lasting => Err(self.refusal(action, response).await.into()),
        }
    }
}

/// How much of an upload has arrived: the header `Range: 0-LAST`, which cannot say that nothing has.
fn arrived_bytes(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.strip_prefix("0-")?.trim().parse().ok()?;
    if last == 0 { Some(0) } else { last.checked_add(1) }
}

/// A file from an offset on, as the body of a request; `counter` counts what was taken of it.
fn body(blob: &Arc<FilePart>, at_bytes: u64, counter: &Arc<AtomicU64>) -> Body {
    let start = (Arc::clone(blob), Arc::clone(counter), at_bytes);
    Body::wrap_stream(stream::try_unfold(start, async |(blob, counter, at_bytes)| {
        let left_bytes = blob.size_bytes - at_bytes;
        if left_bytes == 0 {
            return Ok::<_, io::Error>(None);
        }
        let mut buffer = vec![0; usize::try_from(left_bytes.min(CHUNK_BYTES)).unwrap_or(0)];
        let count = blob.file.file().read_at(&mut buffer, blob.offset_bytes.saturating_add(at_bytes))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(count);
        let at_bytes = at_bytes + count as u64;
        counter.store(at_bytes, Ordering::Relaxed);
        Ok(Some((buffer, (blob, counter, at_bytes))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived() {
        let range = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            arrived_bytes(&headers)
        };
        assert_eq!(range("0-99"), Some(100));
        assert_eq!(range("bytes=0-99"), Some(100));
        assert_eq!(range("0-0"), Some(0));
        for bad in ["", "1-99", "0-", "0-x", "0-99999999999999999999999"] {
            assert_eq!(range(bad), None, "{bad}");
        }
        assert_eq!(arrived_bytes(&HeaderMap::new()), None);
    }
}
