/** `mesh graph`: the derivations of a file and their edges, without a daemon. */
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { parseDescription } from '../graph-file/parse-description.ts'
import { outputsUsedBy, planGraph, type Plan } from '../graph-file/plan.ts'
import { readGraphFile } from '../graph-file/read-graph-file.ts'
import { thisSystem } from '../submission.ts'

export async function graph(context: Context, args: Arguments): Promise<number> {
  const file = await readGraphFile(context.cwd, args.operand(0))
  const plan = planGraph(file.located, parseDescription(file.located), {
    attributes: args.all('attr'),
    system: thisSystem(),
  })
  if (args.flag('json')) await printJson(context.stdout, graphJson(plan))
  else await printLines(context.stdout, args.flag('dot') ? dotLines(plan) : textLines(plan))
  return 0
}

function edgesOf(
  derivation: Plan['derivations'][number],
): { derivation: string; output: string }[] {
  return outputsUsedBy(derivation).map((input) => ({
    derivation: input.derivation,
    output: input.output,
  }))
}

function graphJson(plan: Plan): unknown {
  return {
    v: 1,
    wanted: plan.wanted,
    derivations: plan.derivations.map((derivation) => ({
      name: derivation.name,
      system: derivation.system,
      outputs: derivation.outputs,
      needs: edgesOf(derivation),
    })),
  }
}

/** One line for each derivation, after those that it needs. */
function textLines(plan: Plan): string[] {
  return plan.derivations.map((derivation) => {
    const edges = edgesOf(derivation).map((edge) => `${edge.derivation}.${edge.output}`)
    const mark = plan.wanted.includes(derivation.name) ? '*' : ' '
    return `${mark} ${derivation.name}${edges.length === 0 ? '' : `  <-  ${[...new Set(edges)].join(', ')}`}`
  })
}

function dotLines(plan: Plan): string[] {
  return [
    'digraph mesh {',
    '  rankdir=LR; node [shape=box];',
    ...plan.derivations.map(
      ({ name }) => `  "${name}"${plan.wanted.includes(name) ? ' [style=bold]' : ''};`,
    ),
    ...plan.derivations.flatMap((derivation) =>
      edgesOf(derivation).map(
        (edge) => `  "${edge.derivation}" -> "${derivation.name}" [label="${edge.output}"];`,
      ),
    ),
    '}',
  ]
}
