#!/usr/bin/env bash
# Embeds an archive with a Slurm array: a plan, workers that divide it, and one table at the end. Adapt the three lines, then run
# it where sbatch is; submit it again whenever slides were added or a task was lost: what is done is not done again.
set -euo pipefail
ARCHIVE=${ARCHIVE:-/archive/slides} OUT=${OUT:-/results/archive} WORKERS=${WORKERS:-8}
TILES=${TILES:---encoder efficientnet-lite0} EMBED=${EMBED:-}    # options of both plan and embed; of embed alone (--device cuda)
SBATCH=${SBATCH:---cpus-per-task=8 --mem=16G --time=12:00:00}    # and --partition, --account, --gres=gpu:1, ...

PARAFFIN=${PARAFFIN:-paraffin}
PLAN=$OUT/plan-$(date +%Y%m%d-%H%M%S).jsonl
mkdir -p "$OUT/site-private/logs"
LOG=$OUT/site-private/logs/%x-%A-%a.log
# Values with spaces travel in the environment, not in the scripts' text.
export ARCHIVE OUT WORKERS TILES EMBED PARAFFIN PLAN

# shellcheck disable=SC2086  # options are words
plan=$(sbatch --parsable $SBATCH --job-name=paraffin-plan --output="$LOG" <<'JOB'
#!/usr/bin/env bash
exec "$PARAFFIN" plan "$ARCHIVE" -o "$OUT" --file "$PLAN" $TILES --no-probe
JOB
)

# The share is i/n with the n of this submission: SLURM_ARRAY_TASK_COUNT would be 2 after --array=3,7. Ten minutes before the time
# limit, and when the task is preempted or requeued, SIGTERM: paraffin ends with 75 and the task goes back to the queue.
# shellcheck disable=SC2086
embed=$(sbatch --parsable $SBATCH --job-name=paraffin-embed --output="$LOG" --open-mode=append --array="0-$((WORKERS - 1))" \
    --dependency="afterok:$plan" --requeue --signal=B:TERM@600 <<'JOB'
#!/usr/bin/env bash
"$PARAFFIN" embed --plan "$PLAN" --shard "$SLURM_ARRAY_TASK_ID/$WORKERS" -o "$OUT" $TILES $EMBED --progress lines &
worker=$!
trap 'kill -TERM $worker' TERM
code=0
wait $worker || code=$?
# The trap ends the first wait.
while kill -0 $worker 2>/dev/null; do code=0; wait $worker || code=$?; done
# Slurm has requeued it itself where it was preempted.
[ $code -ne 75 ] || scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" 2>/dev/null || true
exit $code
JOB
)

# afterany: slides that failed (exit code 4) stand in the table.
# shellcheck disable=SC2086
merge=$(sbatch --parsable $SBATCH --job-name=paraffin-merge --output="$LOG" --dependency="afterany:$embed" <<'JOB'
#!/usr/bin/env bash
exec "$PARAFFIN" merge "$OUT" -o "$OUT/slides.csv"
JOB
)
echo "plan $plan, workers $embed, table $merge; watch with: $PARAFFIN status $OUT --watch"
