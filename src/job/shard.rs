//! Shares of a run that need no talk between workers: the scheduler says which one of how many this is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;

use crate::digest::sha256;
use crate::error::{Error, Result};

/// One share of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

/// `--shard` as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardWord {
    /// `i/n`.
    Given(Shard),
    /// An indexed Kubernetes Job: `JOB_COMPLETION_INDEX`, and the number of completions, which Kubernetes does not tell.
    Kubernetes,
    /// An array job of AWS Batch: `AWS_BATCH_JOB_ARRAY_INDEX` and `AWS_BATCH_JOB_ARRAY_SIZE`.
    AwsBatch,
}

impl FromStr for ShardWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "k8s" => return Ok(ShardWord::Kubernetes),
            "awsbatch" => return Ok(ShardWord::AwsBatch),
            "slurm" => {
                return Err("Slurm does not say of how many tasks an array was meant to be (after --array=3,7 it says 2, and \
                            slides would be lost): give --shard $SLURM_ARRAY_TASK_ID/N with the N of the first submission"
                    .into());
            }
            _ => {}
        }
        let parts = word.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, count) = parts.ok_or("a share is i/n with i from 0, or k8s, or awsbatch")?;
        check(index, count).map(ShardWord::Given)
    }
}

fn check(index: usize, count: usize) -> Result<Shard, String> {
    if index < count {
        return Ok(Shard { index, count });
    }
    Err(format!(
        "share {index}/{count} does not exist: shares count from 0, so the last one is {}/{count}",
        count.max(1) - 1
    ))
}

impl ShardWord {
    /// The share, from `count` (`--shard-count`) and the environment where it does not stand in the word.
    ///
    /// # Errors
    /// [`Error::Usage`] where something is missing or contradictory.
    pub fn resolve(self, count: Option<usize>, environment: impl Fn(&str) -> Option<String>) -> Result<Shard> {
        let variable = |name: &str| {
            let text = environment(name).ok_or_else(|| Error::Usage(format!("--shard: {name} is not set")))?;
            text.trim().parse::<usize>().map_err(|_| Error::Usage(format!("--shard: {name} is '{text}', no number")))
        };
        let shard = match self {
            ShardWord::Given(shard) => Ok(shard),
            ShardWord::Kubernetes => {
                let count = count.ok_or_else(|| {
                    Error::Usage(
                        "--shard k8s: Kubernetes does not say of how many completions: give the Job's .spec.completions as \
                         --shard-count or PARAFFIN_SHARD_COUNT"
                            .into(),
                    )
                })?;
                check(variable("JOB_COMPLETION_INDEX")?, count)
            }
            ShardWord::AwsBatch => check(variable("AWS_BATCH_JOB_ARRAY_INDEX")?, variable("AWS_BATCH_JOB_ARRAY_SIZE")?),
        };
        let shard = shard.map_err(|why| Error::Usage(format!("--shard: {why}")))?;
        match count {
            Some(n) if n != shard.count => {
                Err(Error::Usage(format!("--shard-count {n}, but the share is of {}", shard.count)))
            }
            _ => Ok(shard),
        }
    }
}

impl Shard {
    /// Whether a slide is in this share where there is no plan: by the sha256 of its id, so whatever other slides there are.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        let number = u64::from_str_radix(&sha256(id.as_bytes())[..16], 16).unwrap_or_default();
        number % self.count as u64 == self.index as u64
    }

    /// Which of slides with these ids and costs are in this share, in their order: the dearest first, each goes to the share that has
    /// least so far, the first of equals. So no share costs more than the mean and the dearest slide together.
    #[must_use]
    pub fn of_costs(&self, slides: &[(&str, u64)]) -> Vec<usize> {
        let mut dearest: Vec<usize> = (0..slides.len()).collect();
        dearest.sort_by_key(|&i| (Reverse(slides[i].1), slides[i].0));
        let mut shares: BinaryHeap<Reverse<(u64, usize)>> = (0..self.count).map(|share| Reverse((0, share))).collect();
        let mut mine = Vec::new();
        for i in dearest {
            let Some(Reverse((cost, share))) = shares.pop() else { break };
            shares.push(Reverse((cost + slides[i].1, share)));
            if share == self.index {
                mine.push(i);
            }
        }
        mine.sort_unstable();
        mine
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(word: &str, count: Option<usize>, environment: &[(&str, &str)]) -> Result<Shard> {
        let word: ShardWord = word.parse().map_err(Error::Usage)?;
        word.resolve(count, |name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string()))
    }

    #[test]
    fn schedulers_say_which_share() {
        let k8s = [("JOB_COMPLETION_INDEX", "3")];
        let aws = [("AWS_BATCH_JOB_ARRAY_INDEX", "3"), ("AWS_BATCH_JOB_ARRAY_SIZE", "8")];
        let shard = Shard { index: 3, count: 8 };
        assert_eq!(resolve("3/8", None, &[]).expect("given"), shard);
        assert_eq!(resolve("k8s", Some(8), &k8s).expect("read"), shard);
        assert_eq!(resolve("awsbatch", None, &aws).expect("read"), shard);
        for (word, count, environment, why) in [
            ("8/8", None, &k8s[..], "the last one is 7/8"),
            ("0/0", None, &k8s, "does not exist"),
            ("3", None, &k8s, "i/n"),
            ("-1/3", None, &k8s, "i/n"),
            ("slurm", None, &k8s, "--array=3,7"),
            ("k8s", None, &k8s, "--shard-count"),
            ("k8s", Some(8), &[], "JOB_COMPLETION_INDEX is not set"),
            ("k8s", Some(2), &k8s, "does not exist"),
            ("awsbatch", Some(4), &aws, "the share is of 8"),
            ("awsbatch", None, &k8s, "not set"),
        ] {
            let error = resolve(word, count, environment).expect_err(word).to_string();
            assert!(error.contains(why), "{word}: {error}");
        }
    }

    /// Shares by cost, computed for all of n.
    fn shares(n: usize, slides: &[(&str, u64)]) -> Vec<Vec<usize>> {
        (0..n).map(|index| Shard { index, count: n }.of_costs(slides)).collect()
    }

    #[test]
    fn every_slide_is_in_one_share_and_costs_are_even() {
        let ids: Vec<String> = (0..1000).map(|i| format!("s{i}")).collect();
        // Costs over three magnitudes.
        let slides: Vec<(&str, u64)> =
            ids.iter().enumerate().map(|(i, id)| (id.as_str(), 10 + (i as u64 * 7919) % 9973)).collect();
        for n in [1, 2, 7, 64, 1000, 1500] {
            let mut all: Vec<usize> = shares(n, &slides).concat();
            all.sort_unstable();
            assert_eq!(all, (0..1000).collect::<Vec<_>>(), "{n} shares");
            let by_hash = |i: usize| (0..n).filter(|&index| Shard { index, count: n }.has(&ids[i])).count();
            assert!((0..1000).step_by(97).all(|i| by_hash(i) == 1));
        }
        let costs: Vec<u64> = shares(7, &slides).iter().map(|s| s.iter().map(|&i| slides[i].1).sum()).collect();
        let (least, most) = (costs.iter().min().expect("seven"), costs.iter().max().expect("seven"));
        assert!((most - least) * 1000 <= *least, "{costs:?}");
        assert_eq!(shares(2, &[("a", 5), ("b", 9), ("c", 4)]), [vec![1], vec![0, 2]]);
        // A share does not depend on the order of the list.
        assert_eq!(shares(2, &[("c", 4), ("b", 9), ("a", 5)]), [vec![1], vec![0, 2]]);
    }
}
