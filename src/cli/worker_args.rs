//! The words of many workers: shares, plans, status, merge.

use std::path::PathBuf;

use clap::Args;

use super::args::{SlideArgs, TileArgs};
use super::ids::IdsArgs;
use crate::encoder::device::Devices;
use crate::encoder::registry::DEFAULT_ID;
use crate::error::Result;
use crate::features::Precision;
use crate::job::shard::{Shard, ShardWord};

/// A worker's share of the slides.
#[derive(Args)]
pub struct ShardArgs {
    /// Slides of a plan that 'paraffin plan' wrote, with the same OUT
    #[arg(long, value_name = "FILE", conflicts_with_all = ["slides", "slide_list", "mpp", "allow_objective_mpp"], help_heading = "Workers")]
    pub plan: Option<PathBuf>,
    /// Only the share i of n (i from 0), of even cost where there is a plan; k8s: i from JOB_COMPLETION_INDEX; awsbatch: both from
    /// AWS_BATCH_JOB_ARRAY_INDEX and _SIZE. Without it workers share by leases
    #[arg(long, value_name = "i/n|k8s|awsbatch", help_heading = "Workers")]
    pub shard: Option<ShardWord>,
    /// The n of --shard k8s
    #[arg(
        long,
        value_name = "N",
        env = "PARAFFIN_SHARD_COUNT",
        hide_env_values = true,
        requires = "shard",
        help_heading = "Workers"
    )]
    pub shard_count: Option<usize>,
}

impl ShardArgs {
    /// The share.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where the scheduler's variables are not set.
    pub fn shard(&self) -> Result<Option<Shard>> {
        self.shard.map(|word| word.resolve(self.shard_count, |name| std::env::var(name).ok())).transpose()
    }
}

/// `paraffin plan`.
#[derive(Args)]
pub struct PlanArgs {
    /// Which slides.
    #[command(flatten)]
    pub slides: SlideArgs,
    /// Directory of the results to come; made if it does not exist, with the slides' ids
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// The plan [default: OUT/plan.jsonl]; written once and never changed
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Encoder that will run: its tile and resolution are the defaults, its speed is measured
    #[arg(long, value_name = "ID|FILE.onnx|DIR", visible_alias = "patch-encoder", default_value = DEFAULT_ID, help_heading = "Encoder")]
    pub encoder: String,
    /// Do not measure the encoder's speed here
    #[arg(long, help_heading = "Encoder")]
    pub no_probe: bool,
    /// Where the encoder will compute: cpu, cuda, cuda:N, several cards as cuda:0,1; tensorrt likewise
    #[arg(long, value_name = "DEVICE", conflicts_with = "no_probe", help_heading = "Encoder")]
    pub device: Option<Devices>,
    /// Threads for opening slides and for the measurement [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Encoder")]
    pub threads: Option<usize>,
    /// Features on disk: f32-m10, f32, f16
    #[arg(long, default_value_t = Precision::default(), value_name = "KIND", help_heading = "Encoder")]
    pub precision: Precision,
    /// What a tile is.
    #[command(flatten)]
    pub tiles: TileArgs,
    /// How slides are named.
    #[command(flatten)]
    pub ids: IdsArgs,
}

/// `paraffin status`.
#[derive(Args)]
pub struct StatusArgs {
    /// Directory that workers write
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// As JSON; with --watch a line each time
    #[arg(long)]
    pub json: bool,
    /// Look again every two seconds until no worker is left
    #[arg(long)]
    pub watch: bool,
}

/// `paraffin merge`.
#[derive(Args)]
pub struct MergeArgs {
    /// Directory that workers wrote
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// The table, as CSV; replaced as a whole [default: standard output]
    #[arg(short, long, value_name = "CSV")]
    pub output: Option<PathBuf>,
}
