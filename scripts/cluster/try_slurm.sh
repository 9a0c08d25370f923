#!/usr/bin/env bash
# Runs scripts/cluster/slurm and scripts/cluster/snakemake on a Slurm of one node: an array, a task that is requeued while it works, the
# table by dependency, Snakemake alone and over Slurm; each OUT must equal that of a quiet run. Needs root on Debian 12:
#
#   scripts/cluster/try_slurm.sh [--purge] [--no-snakemake]
#
# Installs Debian's slurmctld, slurmd, slurm-client and munge, and Snakemake into a temporary environment; stops what it
# started. --purge removes the packages afterwards. PARAFFIN is the program (default: target/release/paraffin).
set -euo pipefail
cd "$(dirname "$0")/../.."
purge= snakemake=yes
for word in "$@"; do
    case $word in
        --purge) purge=yes ;;
        --no-snakemake) snakemake= ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
[ "$(id -u)" -eq 0 ] || { echo "needs root, for Slurm's daemons"; exit 1; }
PARAFFIN=$(realpath "${PARAFFIN:-target/release/paraffin}")
work=$(mktemp -d /tmp/paraffin-slurm.XXXXXX)
daemons=()

finish() {
    code=$?
    [ $code -eq 0 ] || tail -n 20 "$work"/*.log "$work"/out*/site-private/logs/* 2>/dev/null || true
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do kill "${daemons[$i]}" 2>/dev/null || true; done
    for pid in "${daemons[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ -n "$purge" ]; then
        DEBIAN_FRONTEND=noninteractive apt-get purge -y -q slurmctld slurmd slurm-client munge >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get autoremove --purge -y -q >/dev/null
    fi
    rm -rf "$work"
    exit $code
}
trap finish EXIT

step() { printf '\n== %s\n' "$*"; }
# Waits up to a minute times $1 for a command.
until_true() {
    local seconds=$(($1 * 60)); shift
    for ((i = 0; i < seconds * 5; i++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
    echo "waited in vain for: $*"; return 1
}

step "Slurm of one node"
if ! command -v slurmctld slurmd sbatch munged >/dev/null; then
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
fi
mkdir -p "$work"/{munge,state,spool}
chmod 755 "$work" "$work/munge"
dd if=/dev/urandom of="$work/munge/key" bs=64 count=1 status=none
chmod 600 "$work/munge/key"
munged --force --foreground --key-file="$work/munge/key" --socket="$work/munge/socket" --pid-file="$work/munge/pid" \
    --log-file="$work/munge.log" --seed-file="$work/munge/seed" >"$work/munged.log" 2>&1 &
daemons+=($!)
until_true 1 test -S "$work/munge/socket"
node=$(hostname -s)
cat >"$work/slurm.conf" <<CONF
ClusterName=paraffin
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
SlurmdSpoolDir=$work/spool
StateSaveLocation=$work/state
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=30
NodeName=$node NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
slurmctld -D -f "$SLURM_CONF" >"$work/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" >"$work/slurmd.log" 2>&1 &
daemons+=($!)
until_true 1 sh -c "sinfo -h -o %T | grep -q idle"
sinfo

step "slides, and what a quiet run makes of them"
mkdir "$work/slides"
cp testdata/CMU-1-Small-Region.svs "$work/slides/large.svs"
for i in $(seq 10 21); do cp testdata/generated/aperio_ycc420_256.svs "$work/slides/s$i.svs"; done
# Overlapping tiles, so that the large slide takes long enough to be stopped in it.
tiles="--tissue none --overlap-px 144"
quiet=$work/quiet
# shellcheck disable=SC2086
"$PARAFFIN" embed "$work/slides" -o "$quiet" $tiles --progress none
same() {
    diff -r --exclude=site-private --exclude='plan*.jsonl' --exclude=slides.csv "$quiet" "$1"
    [ -z "$(find "$1/site-private/leases" "$1/site-private/workers" -type f)" ]
    [ -z "$(find "$1" -name '*.part')" ]
    # 13 slides, coordinates and features each, and the heading.
    [ "$(wc -l <"$1/slides.csv")" -eq 27 ]
    "$PARAFFIN" verify "$1"
}

step "array, requeue with SIGTERM and resume, table by dependency"
export ARCHIVE=$work/slides OUT=$work/out WORKERS=3 TILES=$tiles EMBED="--threads 1" PARAFFIN
export SBATCH="--cpus-per-task=1 --time=30"
scripts/cluster/slurm/submit.sh | tee "$work/submitted"
array=$(sed -n 's/.*workers \([0-9]*\),.*/\1/p' "$work/submitted")
lease=$work/out/site-private/leases
until_true 5 sh -c "find $lease -name large.lease | grep -q ."
task=
for i in 0 1 2; do
    # The share with the large slide is the first of all: its slide is the dearest. Each task's log says which slides are its own.
    [ "$(squeue -h -j "${array}_$i" -o %T)" = RUNNING ] || continue
    worker=$(cat "$(find "$lease" -name large.lease)" | cut -d- -f2)
    job=$(scontrol show job "${array}_$i" | sed -n 's/^JobId=\([0-9]*\).*/\1/p')
    if scontrol listpids "$job" 2>/dev/null | awk '{print $1}' | grep -qx "$worker"; then task=$i; fi
done
[ -n "$task" ] || { echo "no running task has the large slide"; exit 1; }
echo "requeues task $task, which works on the large slide"
scontrol requeue "${array}_$task"
log=$(ls "$work/out/site-private/logs/paraffin-embed-$array-$task.log")
until_true 2 grep -q "stopped by a signal" "$log"
until_true 2 sh -c "squeue -h -j ${array}_$task -o %T | grep -q PENDING"
# Slurm lets a requeued job wait for two minutes.
scontrol update "JobId=${array}_$task" StartTime=now
until_true 10 sh -c "[ -z \"\$(squeue -h)\" ]"
cat "$log"
[ "$(grep -c 'stopped by a signal' "$log")" -eq 1 ]
same "$work/out"

if [ -z "$snakemake" ]; then
    step "all passed (Snakemake left out)"
    exit 0
fi
step "Snakemake, locally"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q snakemake==9.27.1 snakemake-executor-plugin-cluster-generic==1.0.9
snake() {
    local out=$1; shift
    "$work/venv/bin/snakemake" -s scripts/cluster/snakemake/Snakefile --directory "$work" --quiet rules "$@" \
        --config archive="$work/slides" out="$out" workers=3 threads=1 paraffin="$PARAFFIN" tiles="$tiles"
    same "$out"
}
snake "$work/out-local" --cores 2
step "Snakemake over Slurm"
snake "$work/out-slurm" --jobs 3 --executor cluster-generic --latency-wait 30 \
    --cluster-generic-submit-cmd 'sbatch --parsable --cpus-per-task={threads} --time={resources.runtime}'
step "all passed"
