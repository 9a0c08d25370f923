// Embeds an archive in shares of a plan: nextflow run main.nf --archive /archive/slides --out /results/archive --workers 8
// Not run by this project: Nextflow is not to be had from PyPI or Debian. Its parts are paraffin's commands, which are.
nextflow.enable.dsl = 2

params.archive = null
params.out = null
params.workers = 8
params.tiles = '--encoder efficientnet-lite0'   // options of both plan and embed
params.embed = ''                               // options of embed alone, such as --device cuda
params.paraffin = 'paraffin'

process PLAN {
    input:
    val archive

    output:
    path 'plan.jsonl'

    script:
    """
    ${params.paraffin} plan '${archive}' -o '${params.out}' --file plan.jsonl ${params.tiles} --no-probe
    """
}

process EMBED {
    cpus 4
    memory '8 GB'
    // 143 is what Nextflow's own retry rules take for a task that was told to stop; paraffin says 75.
    errorStrategy { task.exitStatus in [75, 130, 137, 143] ? 'retry' : 'terminate' }
    maxRetries 5

    input:
    tuple path(plan), val(share)

    output:
    val share

    script:
    // 4: some slides failed; they stand in the table.
    """
    ${params.paraffin} embed --plan ${plan} --shard ${share}/${params.workers} -o '${params.out}' --threads ${task.cpus} \\
        ${params.tiles} ${params.embed} --progress lines || [ \$? -eq 4 ]
    """
}

process MERGE {
    publishDir params.out, mode: 'copy'

    input:
    val shares

    output:
    path 'slides.csv'

    script:
    """
    ${params.paraffin} merge '${params.out}' -o slides.csv
    """
}

workflow {
    plan = PLAN(params.archive)
    shares = EMBED(plan.combine(Channel.of(0..<(params.workers as int))))
    MERGE(shares.collect())
}
