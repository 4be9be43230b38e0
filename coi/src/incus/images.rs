//! Images: found, made of instances and files, named, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Operation};
use super::{Error, Result};
use crate::http::segment;

/// How long Incus may take to pack an instance's disk, or to unpack a file.
const PACK: Duration = Duration::from_secs(1800);
/// How long it may take to delete an image.
const DELETE: Duration = Duration::from_secs(120);

/// A local image.
#[derive(Clone, Debug, Deserialize)]
pub struct Image {
    /// What it is known by, whatever its aliases.
    pub fingerprint: String,
    /// How large it is, in bytes.
    #[serde(default)]
    pub size: u64,
    /// What whoever made it says of it.
    #[serde(default)]
    pub properties: Option<BTreeMap<String, String>>,
    /// Its aliases.
    #[serde(default)]
    aliases: Vec<Alias>,
}

#[derive(Clone, Debug, Deserialize)]
struct Alias {
    name: String,
}

impl Image {
    /// A property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.as_ref()?.get(name).map(String::as_str)
    }

    /// Its aliases.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(|alias| alias.name.as_str())
    }
}

/// What an image that is made of an instance is to be.
#[derive(Clone, Debug)]
pub struct Publish<'a> {
    /// The instance, which does not run.
    pub instance: &'a str,
    /// How it is compressed: a word of Incus's.
    pub compression: &'a str,
    /// What is said of it.
    pub properties: BTreeMap<String, String>,
}

impl Client {
    /// All local images.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.get("/1.0/images?recursion=1", "list of images").await
    }

    /// The local image with this fingerprint, or the beginning of one.
    pub async fn image(&self, fingerprint: &str) -> Result<Image> {
        self.get(&format!("/1.0/images/{}", segment(fingerprint)), &format!("image {fingerprint}")).await
    }

    /// The local image that has this alias, if one has.
    pub async fn image_of(&self, alias: &str) -> Result<Option<Image>> {
        #[derive(Deserialize)]
        struct Target {
            target: String,
        }
        let target = format!("/1.0/images/aliases/{}", segment(alias));
        match self.get::<Target>(&target, &format!("image {alias}")).await {
            Ok(found) => self.image(&found.target).await.map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an image of an instance; answers its fingerprint. It has no alias.
    pub async fn publish(&self, publish: &Publish<'_>) -> Result<String> {
        let what = format!("make an image of {}", publish.instance);
        let body = json!({
            "source": { "type": "instance", "name": publish.instance },
            "compression_algorithm": publish.compression,
            "properties": publish.properties,
        });
        let job = self.begin(Method::POST, "/1.0/images", Some(&body), &what).await?;
        self.fingerprint(&job.path, &what).await
    }

    /// Makes an image of a tarball with metadata and a root, which is read from where the file stands on; answers its
    /// fingerprint. It has no alias.
    pub async fn import(&self, file: tokio::fs::File, length: u64) -> Result<String> {
        let what = "import an image";
        let job = self.begin_upload("/1.0/images", file, length, what, PACK).await?;
        self.fingerprint(&job.path, what).await
    }

    async fn fingerprint(&self, job: &str, what: &str) -> Result<String> {
        let done = self.wait(job, what, PACK).await?;
        match (done.status_code, done.metadata["fingerprint"].as_str()) {
            (Operation::SUCCESS, Some(fingerprint)) => Ok(fingerprint.to_owned()),
            (Operation::SUCCESS, None) => Err(self.nonsense(job, &"it names no fingerprint")),
            _ => Err(Error::Refused { what: what.to_owned(), why: done.err }),
        }
    }

    /// Gives an image an alias, which another image may have had until then: it is one of the two at any time.
    pub async fn name_image(&self, fingerprint: &str, alias: &str, description: &str) -> Result<()> {
        let what = format!("give the image {fingerprint} the alias {alias}");
        let body = json!({ "name": alias, "target": fingerprint, "description": description });
        // Incus answers these at once; they are no jobs to wait for.
        let (method, target) = match self.has_image(alias).await? {
            true => (Method::PUT, format!("/1.0/images/aliases/{}", segment(alias))),
            false => (Method::POST, "/1.0/images/aliases".to_owned()),
        };
        self.begin(method, &target, Some(&body), &what).await.map(drop)
    }

    /// Deletes an image with its aliases.
    pub async fn delete_image(&self, fingerprint: &str) -> Result<()> {
        let target = format!("/1.0/images/{}", segment(fingerprint));
        self.change(Method::DELETE, &target, None, &format!("delete the image {fingerprint}"), DELETE).await
    }
}
