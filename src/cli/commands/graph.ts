/** `mesh graph`: the derivations of a file, without a daemon, or of a request, and their edges. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { GraphJson, type InputRef } from '../../wire/derivation.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { parseDescription } from '../graph-file/parse-description.ts'
import type { PlannedLayer } from '../graph-file/image-plan.ts'
import { outputsUsedBy, planGraph, type PlannedInput } from '../graph-file/plan.ts'
import { readGraphFile } from '../graph-file/read-graph-file.ts'
import { thisSystem } from '../submission.ts'
import { entryCid } from './objects.ts'

/** What is drawn; dependencies come before what needs them. */
interface Drawn {
  readonly wanted: readonly string[]
  readonly derivations: readonly {
    readonly name: string
    readonly system: string
    readonly outputs: readonly string[]
    /** Its images, as people know them. */
    readonly images: readonly string[]
    readonly edges: readonly { readonly derivation: string; readonly output: string }[]
  }[]
}

export async function graph(context: Context, args: Arguments): Promise<number> {
  const operand = args.operand(0)
  const isRequest = REQUEST.test(operand) && !existsSync(resolve(context.cwd, operand))
  const drawn = isRequest ? await ofRequest(context, args, operand) : await ofFile(context, args)
  if (args.flag('json')) await printJson(context.stdout, graphJson(drawn))
  else await printLines(context.stdout, args.flag('dot') ? dotLines(drawn) : textLines(drawn))
  return 0
}

/** What can only be a request: its id, or the beginning of one. */
const REQUEST = /^r-[a-z0-9]{1,32}$/

async function ofFile(context: Context, args: Arguments): Promise<Drawn> {
  const file = await readGraphFile(context.cwd, args.operand(0))
  const plan = planGraph(file.located, parseDescription(file.located), {
    attributes: args.all('attr'),
    system: thisSystem(),
  })
  return draw(plan.wanted, plan.derivations)
}

async function ofRequest(context: Context, args: Arguments, id: string): Promise<Drawn> {
  using client = await openClient(context, args)
  const { wanted, derivations } = await client.json(GraphJson, `/api/requests/${id}/graph`)
  return draw(wanted, derivations)
}

type Drawable = Parameters<
  typeof outputsUsedBy<InputRef | PlannedInput, InputRef | PlannedLayer>
>[0] &
  Pick<Drawn['derivations'][number], 'name' | 'system' | 'outputs'>

function draw(wanted: readonly string[], derivations: readonly Drawable[]): Drawn {
  return {
    wanted,
    derivations: derivations.map((derivation) => ({
      name: derivation.name,
      system: derivation.system,
      outputs: derivation.outputs,
      images: imagesOf(derivation),
      edges: outputsUsedBy(derivation).map(({ derivation: from, output }) => ({
        derivation: from,
        output,
      })),
    })),
  }
}

/** Of all its variants, as people know them. */
function imagesOf({ image = [], variants }: Drawable): string[] {
  const layers = [...image, ...variants.flatMap((variant) => variant.image ?? [])]
  const texts = layers.map((layer) => {
    switch (layer.kind) {
      case 'image':
        return layer.name
      case 'output':
        return `${layer.derivation}.${layer.output}`
      case 'tree':
        return 'path' in layer.at ? layer.at.path : layer.at.cid
      case 'entry':
        return entryCid(layer.entry) ?? ''
    }
  })
  return [...new Set(texts)]
}

function graphJson(plan: Drawn): unknown {
  return {
    v: 1,
    wanted: plan.wanted,
    derivations: plan.derivations.map((derivation) => ({
      name: derivation.name,
      system: derivation.system,
      outputs: derivation.outputs,
      ...(derivation.images.length === 0 ? {} : { images: derivation.images }),
      needs: derivation.edges,
    })),
  }
}

/** One line for each derivation, after those that it needs. */
function textLines(plan: Drawn): string[] {
  return plan.derivations.map((derivation) => {
    const edges = derivation.edges.map((edge) => `${edge.derivation}.${edge.output}`)
    const mark = plan.wanted.includes(derivation.name) ? '*' : ' '
    const images = derivation.images.length === 0 ? '' : `  in ${derivation.images.join(', ')}`
    return `${mark} ${derivation.name}${images}${edges.length === 0 ? '' : `  <-  ${[...new Set(edges)].join(', ')}`}`
  })
}

function dotLines(plan: Drawn): string[] {
  return [
    'digraph mesh {',
    '  rankdir=LR; node [shape=box];',
    ...plan.derivations.map(
      ({ name }) => `  "${name}"${plan.wanted.includes(name) ? ' [style=bold]' : ''};`,
    ),
    ...plan.derivations.flatMap((derivation) =>
      derivation.edges.map(
        (edge) => `  "${edge.derivation}" -> "${derivation.name}" [label="${edge.output}"];`,
      ),
    ),
    '}',
  ]
}
