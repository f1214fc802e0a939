//! Object Storage: buckets, objects, and uploads in parts.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Call, Client, Repeat, encode};
use crate::error::OracleError;
use crate::region::Service;
use crate::secret::Secret;

const STORAGE: Service = Service::ObjectStorage;
/// Names of headers: which checksum is computed beside MD5, and its value.
const ALGORITHM: &str = "opc-checksum-algorithm";
const CRC32C: &str = "opc-content-crc32c";

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Bucket {
    /// The namespace of the tenancy.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Bucket {
    pub(crate) fn path(&self) -> String {
        format!("/n/{}/b/{}", encode(&self.namespace), encode(&self.name))
    }

    /// Where its objects are listed.
    pub(crate) fn objects(&self) -> String {
        format!("{}/o", self.path())
    }

    fn object(&self, kind: &str, object: &str) -> String {
        format!("{}/{kind}/{}", self.path(), encode(object))
    }
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Changes with every write.
    pub etag: String,
    /// Its length.
    pub size_bytes: u64,
    /// Base64 of the MD5 of an object that came in one piece.
    pub md5: Option<String>,
    /// Of an object in parts: base64 of the MD5 of the parts' MD5s, `-`, and their number.
    pub multipart_md5: Option<String>,
    /// CRC-32C of the whole object, in base64, if it was made with that.
    pub crc32c: Option<String>,
    /// What its maker noted, by names without `opc-meta-`.
    pub metadata: BTreeMap<String, String>,
}

/// An upload in parts that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MultipartUpload {
    /// The object that it will be.
    pub object: String,
    /// Its identifier.
    pub upload_id: String,
    /// When it began, as RFC 3339.
    #[serde(default)]
    pub time_created: Option<String>,
}

/// A part that the service has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its number, from 1.
    pub part_number: u32,
    /// What a commit names it by.
    pub etag: String,
    /// MD5 of its bytes, in base64.
    pub md5: String,
    /// Its length.
    pub size: u64,
}

/// The bytes of a part, which can be read from the beginning for every attempt.
pub struct PartBody {
    /// How many there are.
    pub length_bytes: u64,
    /// Their MD5, in base64.
    pub md5: String,
    /// Their CRC-32C, in base64, if the service is to compare that too.
    pub crc32c: Option<String>,
    open: Box<dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync>,
}

impl PartBody {
    /// A body that `open` reads from the beginning each time.
    pub fn new(
        length_bytes: u64,
        md5: String,
        crc32c: Option<String>,
        open: impl Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self { length_bytes, md5, crc32c, open: Box::new(open) }
    }

    pub(crate) fn open(&self) -> BoxStream<'static, io::Result<Bytes>> {
        (self.open)()
    }
}

impl fmt::Debug for PartBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartBody").field("length_bytes", &self.length_bytes).finish_non_exhaustive()
    }
}

/// A part that was just sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// What a commit names it by.
    pub etag: String,
    /// MD5 of what the service stored, in base64.
    pub md5: Option<String>,
    /// CRC-32C of what the service stored, in base64, if it was sent one.
    pub crc32c: Option<String>,
}

/// An object that its parts have become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedObject {
    /// Changes with every write.
    pub etag: String,
    /// As [`ObjectHead::multipart_md5`].
    pub multipart_md5: Option<String>,
}

impl Client {
    /// The namespace of the tenancy.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn namespace(&self) -> Result<String, OracleError> {
        self.send(Call::get("find the namespace of the tenancy", STORAGE, "/n")).await?.json()
    }

    /// Whether a bucket is there, and this user may see it.
    ///
    /// # Errors
    /// When the service refuses for another reason.
    pub async fn has_bucket(&self, bucket: &Bucket) -> Result<bool, OracleError> {
        let call = Call::get(format!("look for the bucket `{}`", bucket.name), STORAGE, bucket.path())
            .right("read buckets in compartment NAME");
        absent_is_none(self.send(call).await).map(|found| found.is_some())
    }

    /// Makes a bucket that nobody reads without a signature. One that is there already is taken as it is.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_bucket(&self, bucket: &Bucket, compartment: &str) -> Result<(), OracleError> {
        let action = format!("make the bucket `{}`", bucket.name);
        let call = Call::new(action, STORAGE, Method::POST, format!("/n/{}/b", encode(&bucket.namespace)))
            .right("manage buckets in compartment NAME")
            .json(&json!({
                "name": bucket.name, "compartmentId": compartment, "publicAccessType": "NoPublicAccess",
            }));
        match self.send(call).await {
            // Another run, or an attempt whose answer was lost.
            Err(e) if e.status() == Some(409) && self.has_bucket(bucket).await? => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn head_object(
        &self,
        bucket: &Bucket,
        object: &str,
    ) -> Result<Option<ObjectHead>, OracleError> {
        let call = Call::new(
            format!("look for the object `{object}`"),
            STORAGE,
            Method::HEAD,
            bucket.object("o", object),
        )
        .right("read objects in compartment NAME");
        let Some(answer) = absent_is_none(self.send(call).await)? else { return Ok(None) };
        let length = answer.need("content-length")?;
        let named = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
            let name = name.as_str().strip_prefix("opc-meta-")?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        };
        Ok(Some(ObjectHead {
            etag: answer.need("etag")?,
            size_bytes: length.parse().map_err(|_| answer.unexpected(format!("a length of `{length}`")))?,
            md5: answer.header("content-md5").map(str::to_owned),
            multipart_md5: answer.header("opc-multipart-md5").map(str::to_owned),
            crc32c: answer.header(CRC32C).map(str::to_owned),
            metadata: answer.headers.iter().filter_map(named).collect(),
        }))
    }

    /// Some bytes of an object, if it is still the one with the etag.
    ///
    /// # Errors
    /// When the service refuses, or answers another range.
    pub async fn object_range(
        &self,
        bucket: &Bucket,
        object: &str,
        etag: &str,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>, OracleError> {
        let call = Call::get(format!("fetch the object `{object}`"), STORAGE, bucket.object("o", object))
            .right("read objects in compartment NAME")
            .header("if-match", etag)
            .header("range", format!("bytes={offset}-{}", offset + length.saturating_sub(1)));
        let answer = self.send(call).await?;
        let begins =
            answer.header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {offset}-")));
        if begins && answer.body.len() as u64 == length {
            return Ok(answer.body);
        }
        Err(answer.unexpected(format!("{} bytes for a range of {length}", answer.body.len())))
    }

    /// Removes an object, if it is still the one with the etag. One that is gone is fine.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn delete_object(&self, bucket: &Bucket, object: &str, etag: &str) -> Result<(), OracleError> {
        let path = bucket.object("o", object);
        let call = Call::new(format!("remove the object `{object}`"), STORAGE, Method::DELETE, path)
            .right("manage objects in compartment NAME")
            .header("if-match", etag);
        absent_is_none(self.send(call).await).map(|_| ())
    }

    /// Makes a URL by which anybody may read an object for a time, and returns its identifier and itself. One whose answer
    /// was lost is known to nobody, and ends by itself.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_read_url(
        &self,
        bucket: &Bucket,
        object: &str,
        expires: SystemTime,
    ) -> Result<(String, Secret), OracleError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Made {
            id: String,
            access_uri: String,
        }
        let call = Call::new(
            format!("make a URL for the object `{object}`"),
            STORAGE,
            Method::POST,
            format!("{}/p", bucket.path()),
        )
        .right("manage buckets in compartment NAME")
        .json(&json!({
            "name": format!("ocne import of {object}"), "objectName": object, "accessType": "ObjectRead",
            "timeExpires": ocne_http::format_rfc3339(expires),
        }));
        let made: Made = self.send(call).await?.json()?;
        let url = format!("{}{}", self.base(STORAGE)?.0, made.access_uri);
        Ok((made.id, Secret::new(url)))
    }

    /// Ends such a URL. One that has ended is fine.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn delete_read_url(&self, bucket: &Bucket, id: &str) -> Result<(), OracleError> {
        let path = format!("{}/p/{}", bucket.path(), encode(id));
        let call = Call::new("end the URL of the object", STORAGE, Method::DELETE, path)
            .right("manage buckets in compartment NAME");
        absent_is_none(self.send(call).await).map(|_| ())
    }

    /// Begins an upload in parts, of which the service is to compute CRC-32C too, or not. When no answer came, the upload may exist all the same. `replaces` is the etag of the
    /// object that may be replaced; without it none may be.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_multipart_upload(
        &self,
        bucket: &Bucket,
        object: &str,
        metadata: &BTreeMap<String, String>,
        with_crc32c: bool,
        replaces: Option<&str>,
    ) -> Result<MultipartUpload, OracleError> {
        let metadata: BTreeMap<String, &String> =
            metadata.iter().map(|(name, value)| (format!("opc-meta-{name}"), value)).collect();
        let mut call = Call::new(
            format!("begin the upload of `{object}`"),
            STORAGE,
            Method::POST,
            format!("{}/u", bucket.path()),
        )
        .right("manage objects in compartment NAME")
        .repeat(Repeat::IfRefused)
        .json(&json!({ "object": object, "contentType": "application/octet-stream", "metadata": metadata }));
        if with_crc32c {
            call = call.header(ALGORITHM, "CRC32C");
        }
        self.send(condition(call, replaces)).await?.json()
    }

    /// The uploads that are under way in a bucket.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn multipart_uploads(&self, bucket: &Bucket) -> Result<Vec<MultipartUpload>, OracleError> {
        self.list(|| {
            Call::get(
                format!("list the uploads in `{}`", bucket.name),
                STORAGE,
                format!("{}/u", bucket.path()),
            )
            .right("manage objects in compartment NAME")
            .query("limit", "1000")
        })
        .await
    }

    /// The parts that the service has of an upload; none when there is no such upload.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn parts(
        &self,
        bucket: &Bucket,
        object: &str,
        upload_id: &str,
    ) -> Result<Option<Vec<Part>>, OracleError> {
        let listed = self.list(|| {
            Call::get(format!("list the parts of `{object}`"), STORAGE, bucket.object("u", object))
                .right("manage objects in compartment NAME")
                .query("uploadId", upload_id)
                .query("limit", "1000")
        });
        absent_is_none(listed.await)
    }

    /// Sends a part with its MD5, which the service compares.
    ///
    /// # Errors
    /// When the service refuses, or no attempt went through.
    pub async fn upload_part(
        &self,
        bucket: &Bucket,
        upload: &MultipartUpload,
        part_number: u32,
        body: &PartBody,
    ) -> Result<UploadedPart, OracleError> {
        let action = format!("send part {part_number} of `{}`", upload.object);
        let mut call = Call::new(action, STORAGE, Method::PUT, bucket.object("u", &upload.object))
            .right("manage objects in compartment NAME")
            .query("uploadId", &upload.upload_id)
            .query("uploadPartNum", part_number.to_string())
            .header("content-md5", &body.md5);
        if let Some(crc32c) = &body.crc32c {
            call = call.header(ALGORITHM, "CRC32C").header(CRC32C, crc32c);
        }
        call.stream = Some(body);
        let answer = self.send(call).await?;
        Ok(UploadedPart {
            etag: answer.need("etag")?,
            md5: answer.header("opc-content-md5").map(str::to_owned),
            crc32c: answer.header(CRC32C).map(str::to_owned),
        })
    }

    /// Makes an object of parts: numbers with etags, in the order of the numbers. Parts that are not named are dropped by
    /// naming them in `exclude`. When no answer came, it may have been done all the same.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn commit_multipart_upload(
        &self,
        bucket: &Bucket,
        upload: &MultipartUpload,
        parts: &BTreeMap<u32, String>,
        exclude: &[u32],
        replaces: Option<&str>,
    ) -> Result<CommittedObject, OracleError> {
        let object = &upload.object;
        let parts: Vec<_> =
            parts.iter().map(|(number, etag)| json!({ "partNum": number, "etag": etag })).collect();
        let path = bucket.object("u", object);
        let call = Call::new(format!("finish the upload of `{object}`"), STORAGE, Method::POST, path)
            .right("manage objects in compartment NAME")
            .repeat(Repeat::IfRefused)
            .query("uploadId", &upload.upload_id)
            .json(&json!({ "partsToCommit": parts, "partsToExclude": exclude }));
        let answer = self.send(condition(call, replaces)).await?;
        Ok(CommittedObject {
            etag: answer.need("etag")?,
            multipart_md5: answer.header("opc-multipart-md5").map(str::to_owned),
        })
    }

    /// Ends an upload and drops its parts. One that is gone is fine.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn abort_multipart_upload(
        &self,
        bucket: &Bucket,
        object: &str,
        upload_id: &str,
    ) -> Result<(), OracleError> {
        let path = bucket.object("u", object);
        let call = Call::new(format!("end the upload of `{object}`"), STORAGE, Method::DELETE, path)
            .right("manage objects in compartment NAME")
            .query("uploadId", upload_id);
        absent_is_none(self.send(call).await).map(|_| ())
    }
}

fn condition<'a>(call: Call<'a>, replaces: Option<&str>) -> Call<'a> {
    match replaces {
        None => call.header("if-none-match", "*"),
        Some(etag) => call.header("if-match", etag),
    }
}

/// The service says of what is not there, and of what may not be seen, that it is not found.
fn absent_is_none<T>(result: Result<T, OracleError>) -> Result<Option<T>, OracleError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
