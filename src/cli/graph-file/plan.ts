/**
 * From a description to the derivations to submit: defaults merged, references checked, circles found,
 * what nobody asked for pruned. Reads no file; `ingest-plan.ts` does the rest.
 */
import type { MeshError } from '../../base/errors.ts'
import {
  BUILTIN_FETCH,
  DEFAULT_LIMITS,
  DEFAULT_NEEDS,
  DERIVATIONS_MAX,
  type Derivation,
} from '../../wire/derivation.ts'
import { isDigest } from '../../wire/digest.ts'
import { placeName } from '../output-place.ts'
import { nearest } from '../../base/nearest.ts'
import {
  sourceDerivation,
  type DerivationDescription,
  type GraphDescription,
  type Input,
} from './description.ts'
import type { ImageNeed } from './image-description.ts'
import { planLayers, wallsOf, type PlannedLayer } from './image-plan.ts'
import { errorAt, whereOf, type Located, type Path } from './located.ts'

/** An input: the output of another derivation, or something that is yet to be ingested. */
export type PlannedInput =
  | {
      readonly kind: 'output'
      readonly derivation: string
      readonly output: string
      readonly path: Path
    }
  | { readonly kind: 'local'; readonly input: Input; readonly path: Path }
export type PlannedInputs = Readonly<Record<string, PlannedInput>>

interface PlannedDerivation extends Omit<Derivation, 'inputs' | 'image' | 'variants'> {
  readonly inputs: PlannedInputs
  readonly image?: readonly PlannedLayer[]
  readonly variants: readonly (Omit<Derivation['variants'][number], 'inputs' | 'image'> & {
    readonly inputs: PlannedInputs
    readonly image?: readonly PlannedLayer[]
  })[]
}

export interface Plan {
  /** Each after those whose outputs it needs. */
  readonly derivations: readonly PlannedDerivation[]
  readonly wanted: readonly string[]
}

export interface PlanOptions {
  /** Names asked for; none: all that no other derivation of the file uses. */
  readonly attributes: readonly string[]
  /** What a derivation is built for when it does not say so. */
  readonly system: string
}

/** Throws MESH0203, MESH0204, MESH0206, MESH0208, MESH0211. */
export function planGraph(
  located: Located,
  description: GraphDescription,
  options: PlanOptions,
): Plan {
  const all = new Map<string, PlannedDerivation>()
  for (const [name, source] of Object.entries(description.sources ?? {}))
    all.set(sourceDerivation(name), planSource(located, name, source))
  for (const [name, derivation] of Object.entries(description.derivation ?? {}))
    all.set(name, new DerivationPlan(located, description, name).plan(derivation, options.system))
  if (all.size === 0) throw errorAt(located, undefined, 'MESH0203', 'the file has no derivation')
  if (all.size > DERIVATIONS_MAX)
    throw errorAt(
      located,
      undefined,
      'MESH0211',
      `the file has ${all.size} derivations, the limit is ${DERIVATIONS_MAX}`,
    )
  for (const derivation of all.values())
    for (const input of outputsUsedBy(derivation)) checkReference(located, all, input)
  const order = sortByNeed(located, all)
  const wanted = wantedOf(located, all, options.attributes)
  checkCollisions(located, all, wanted)
  const needed = new Set<string>()
  const open = [...wanted]
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    const derivation = all.get(name)
    if (needed.has(name) || derivation === undefined) continue
    needed.add(name)
    for (const input of outputsUsedBy(derivation)) open.push(input.derivation)
  }
  return { derivations: order.filter(({ name }) => needed.has(name)), wanted }
}

type OutputInput = Extract<PlannedInput, { kind: 'output' }>

interface Uses<I, L> {
  readonly inputs: Readonly<Record<string, I>>
  readonly image?: readonly L[] | undefined
}
interface WithInputs<I, L> extends Uses<I, L> {
  readonly variants: readonly Uses<I, L>[]
}

/** The outputs of other derivations that it takes as inputs and images, in any variant. */
export function outputsUsedBy<
  I extends { readonly kind: string },
  L extends { readonly kind: string },
>(derivation: WithInputs<I, L>): Extract<I | L, { kind: 'output' }>[] {
  const isOutput = (input: I | L): input is Extract<I | L, { kind: 'output' }> =>
    input.kind === 'output'
  return [derivation, ...derivation.variants].flatMap(({ inputs, image = [] }) =>
    [...Object.values(inputs), ...image].filter(isOutput),
  )
}

function planSource(
  located: Located,
  name: string,
  { urls, sha256 }: NonNullable<GraphDescription['sources']>[string],
): PlannedDerivation {
  if (!isDigest(sha256))
    throw errorAt(located, undefined, 'MESH0203', `sources.${name}.sha256 is no digest`)
  return {
    name: sourceDerivation(name),
    builder: BUILTIN_FETCH,
    args: [],
    env: {},
    inputs: {},
    outputs: ['out'],
    system: 'any',
    hosts: [],
    variants: [],
    network: true,
    sealed: false,
    tools: [],
    needs: DEFAULT_NEEDS,
    run: DEFAULT_LIMITS,
    fetch: { urls, sha256 },
    where: whereOf(located, located.positions.find('key', ['sources', name])),
  }
}

/** One derivation with the defaults of its file. */
class DerivationPlan {
  readonly #located: Located
  readonly #description: GraphDescription
  readonly #name: string

  constructor(located: Located, description: GraphDescription, name: string) {
    this.#located = located
    this.#description = description
    this.#name = name
  }

  plan(own: DerivationDescription, thisSystem: string): PlannedDerivation {
    const { defaults = {} } = this.#description
    const path: Path = ['derivation', this.#name]
    const system = own.system ?? defaults.system ?? thisSystem
    const needs = { ...defaults.needs, ...own.needs }
    const run = { timeout: defaults.timeout, ...defaults.run, ...own.run }
    const outputs = own.outputs ?? ['out']
    const inputs = this.#inputs([...path, 'inputs'], own.inputs ?? {})
    const variants = (own.when ?? []).flatMap((when, at) =>
      when.system !== undefined && when.system !== system
        ? []
        : [
            {
              host: when.host,
              ...(when.machine === undefined ? {} : { machine: when.machine }),
              args: when.args ?? [],
              env: when.env ?? {},
              inputs: this.#inputs([...path, 'when', at, 'inputs'], when.inputs ?? {}),
              ...(when.image === undefined
                ? {}
                : { image: this.#layers([...path, 'when', at, 'image'], when.image) }),
            },
          ],
    )
    for (const [at, { host, machine }] of variants.entries())
      if (variants.findIndex((other) => other.host === host && other.machine === machine) !== at)
        throw this.#bad(
          [...path, 'when'],
          `two blocks of "when" are for the host ${JSON.stringify(host)}${machine === undefined ? '' : ` on machines of ${machine}`}`,
        )
    const imageParent: Path = own.needs?.image === undefined ? ['defaults'] : path
    const image =
      needs.image === undefined
        ? undefined
        : this.#layers([...imageParent, 'needs', 'image'], needs.image)
    const { sealed } = this.#walls(own, image, variants)
    for (const given of [inputs, ...variants.map((variant) => variant.inputs)])
      for (const name of Object.keys(given))
        if (outputs.includes(name))
          throw this.#bad(
            [...path, 'inputs', name],
            `an input and an output are both named ${JSON.stringify(name)}, and would be the same variable`,
          )
    return {
      name: this.#name,
      builder: own.builder,
      args: own.args ?? [],
      env: { ...defaults.env, ...own.env },
      inputs,
      outputs,
      system,
      hosts: needs.host ?? [],
      variants,
      network: this.#network(own, path) ?? this.#network(defaults, ['defaults']) ?? false,
      sealed,
      ...(image === undefined || image.length === 0 ? {} : { image }),
      tools: [...new Set(needs.tools)].toSorted(),
      needs: {
        cpus: cpusOf(needs.cpus),
        memoryBytes: needs.memory ?? DEFAULT_NEEDS.memoryBytes,
        diskBytes: needs.disk ?? DEFAULT_NEEDS.diskBytes,
        features: needs.features ?? [],
      },
      run: {
        timeoutMs: run.timeout ?? DEFAULT_LIMITS.timeoutMs,
        maxSilentMs: run['max-silent'] ?? DEFAULT_LIMITS.maxSilentMs,
        maxLogBytes: run['max-log'] ?? DEFAULT_LIMITS.maxLogBytes,
        retries: run.retries ?? DEFAULT_LIMITS.retries,
        ...(run['max-output'] === undefined ? {} : { maxOutputBytes: run['max-output'] }),
        ...(run.verify === undefined ? {} : { verify: run.verify }),
      },
      where: whereOf(this.#located, this.#located.positions.find('key', path)),
      lines: this.#lines(own),
    }
  }

  /** Where the file asks for what a node must have: in the derivation itself, or in the defaults. */
  #lines(own: DerivationDescription): NonNullable<Derivation['lines']> {
    const { defaults = {} } = this.#description
    const lines: NonNullable<Derivation['lines']> = {}
    for (const name of [
      'system',
      'sealed',
      'host',
      'cpus',
      'memory',
      'disk',
      'features',
      'tools',
    ] as const) {
      const isNeed = name !== 'system' && name !== 'sealed'
      const [ownValue, defaultValue] = isNeed
        ? [own.needs?.[name], defaults.needs?.[name]]
        : [own[name], defaults[name]]
      if (ownValue === undefined && defaultValue === undefined) continue
      const parent: Path = ownValue === undefined ? ['defaults'] : ['derivation', this.#name]
      const path = isNeed ? [...parent, 'needs', name] : [...parent, name]
      const line = this.#located.positions.find('key', path)?.line
      if (line !== undefined) lines[name] = line
    }
    return lines
  }

  /** `network` of the derivation, which may stand in `run` as well. */
  #network(
    { network, run }: Pick<DerivationDescription, 'network' | 'run'>,
    path: Path,
  ): boolean | undefined {
    if (network !== undefined && run?.network !== undefined && network !== run.network)
      throw this.#bad(
        [...path, 'run', 'network'],
        `network = ${network} and run.network = ${run.network} contradict each other`,
      )
    return network ?? run?.network
  }

  #layers(path: Path, need: ImageNeed): readonly PlannedLayer[] {
    return planLayers(need, path, (text) => this.#reference(text))
  }

  /** Throws MESH0203 where sealed, isolation and image contradict each other. */
  #walls(
    own: DerivationDescription,
    image: readonly PlannedLayer[] | undefined,
    variants: readonly { readonly image?: readonly PlannedLayer[] }[],
  ): { readonly sealed: boolean } {
    const { defaults = {} } = this.#description
    const walls = wallsOf({
      isolation: own.needs?.isolation ?? defaults.needs?.isolation,
      sealed: own.sealed ?? defaults.sealed,
      image,
      variantImages: variants.map((variant) => variant.image),
    })
    if (!('problem' in walls)) return walls
    const { key, problem } = walls
    const parent: Path = own.needs?.[key] === undefined ? ['defaults'] : ['derivation', this.#name]
    const path = [...parent, 'needs', key]
    const isWritten = this.#located.positions.find('key', path) !== undefined
    throw this.#bad(isWritten ? path : ['derivation', this.#name], problem)
  }

  #inputs(path: Path, inputs: Readonly<Record<string, Input>>): PlannedInputs {
    return Object.fromEntries(
      Object.entries(inputs).map(([name, input]) => [name, this.#input([...path, name], input)]),
    )
  }

  #input(path: Path, input: Input): PlannedInput {
    if (input.source !== undefined) {
      const sources = this.#description.sources ?? {}
      if (!Object.hasOwn(sources, input.source))
        throw unknownName(
          this.#located,
          [...path, 'source'],
          'source',
          input.source,
          Object.keys(sources),
        )
      return {
        kind: 'output',
        derivation: sourceDerivation(input.source),
        output: 'out',
        path: [...path, 'source'],
      }
    }
    if (input.output === undefined) return { kind: 'local', input, path }
    return { kind: 'output', ...this.#reference(input.output), path: [...path, 'output'] }
  }

  /** References split at the last dot; a name with a dot alone means its output `out`. */
  #reference(reference: string): { derivation: string; output: string } {
    const dot = reference.lastIndexOf('.')
    const known = this.#description.derivation ?? {}
    const derivation = reference.slice(0, Math.max(0, dot))
    const isWhole = Object.hasOwn(known, reference) && !Object.hasOwn(known, derivation)
    return dot === -1 || isWhole
      ? { derivation: reference, output: 'out' }
      : { derivation, output: reference.slice(dot + 1) }
  }

  #bad(path: Path, message: string): MeshError {
    return errorAt(
      this.#located,
      this.#located.positions.find('key', path),
      'MESH0203',
      `[derivation.${this.#name}]: ${message}`,
    )
  }
}

function cpusOf(cpus: number | { min?: number | undefined; max: number } | undefined): {
  min: number
  max: number
} {
  if (cpus === undefined) return DEFAULT_NEEDS.cpus
  return typeof cpus === 'number' ? { min: cpus, max: cpus } : { min: cpus.min ?? 1, max: cpus.max }
}

function unknownName(
  located: Located,
  path: Path,
  what: string,
  name: string,
  known: Iterable<string>,
): MeshError {
  const [close] = nearest(name, known)
  return errorAt(
    located,
    located.positions.find('value', path),
    'MESH0206',
    `there is no ${what} ${JSON.stringify(name)}`,
    close === undefined ? [] : [`did you mean "${close}"?`],
  )
}

function checkReference(
  located: Located,
  all: ReadonlyMap<string, PlannedDerivation>,
  { derivation, output, path }: OutputInput,
): void {
  const target = all.get(derivation)
  if (target === undefined) throw unknownName(located, path, 'derivation', derivation, all.keys())
  if (!target.outputs.includes(output))
    throw unknownName(located, path, `output of ${derivation} named`, output, target.outputs)
}

/** Depth first without recursion: graphs may be 20,000 derivations deep. Throws MESH0204 with the circle. */
function sortByNeed(
  located: Located,
  all: ReadonlyMap<string, PlannedDerivation>,
): PlannedDerivation[] {
  const sorted: PlannedDerivation[] = []
  const state = new Map<string, 'open' | 'done'>()
  for (const start of all.values()) {
    if (state.has(start.name)) continue
    state.set(start.name, 'open')
    const stack = [
      {
        derivation: start,
        inputs: outputsUsedBy(start),
        next: 0,
        by: undefined as OutputInput | undefined,
      },
    ]
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const input = top.inputs[top.next++]
      if (input === undefined) {
        state.set(top.derivation.name, 'done')
        sorted.push(top.derivation)
        stack.pop()
        continue
      }
      const target = all.get(input.derivation)
      if (target === undefined || state.get(target.name) === 'done') continue
      if (state.get(target.name) === 'open') {
        const from = stack.findIndex(({ derivation }) => derivation === target)
        const circle = stack.slice(from)
        throw circleError(
          located,
          circle.map(({ derivation }) => derivation.name),
          [...circle.slice(1).map(({ by }) => by), input],
        )
      }
      state.set(target.name, 'open')
      stack.push({ derivation: target, inputs: outputsUsedBy(target), next: 0, by: input })
    }
  }
  return sorted
}

/** `names[i]` takes `edges[i]`, an output of `names[i + 1]`. */
function circleError(
  located: Located,
  names: readonly string[],
  edges: readonly (OutputInput | undefined)[],
): MeshError {
  const [first = ''] = names
  const steps = names.map((name, at) => {
    const path = edges[at]?.path ?? []
    return `${whereOf(located, located.positions.find('value', path))}: ${name} needs ${names[at + 1] ?? first}`
  })
  return errorAt(
    { ...located, lines: [] },
    located.positions.find('value', edges[0]?.path ?? []),
    'MESH0204',
    `${[...names, first].join(' -> ')}\n${steps.join('\n')}`,
  )
}

function wantedOf(
  located: Located,
  all: ReadonlyMap<string, PlannedDerivation>,
  attributes: readonly string[],
): string[] {
  for (const name of attributes)
    if (!all.has(name)) throw unknownName(located, [], 'derivation', name, all.keys())
  if (attributes.length > 0) return [...new Set(attributes)]
  const used = new Set(
    [...all.values()].flatMap((derivation) =>
      outputsUsedBy(derivation).map((input) => input.derivation),
    ),
  )
  const free = [...all.values()].filter(({ name }) => !used.has(name))
  const built = free.filter(({ fetch }) => fetch === undefined)
  return (built.length > 0 ? built : free).map(({ name }) => name)
}

function checkCollisions(
  located: Located,
  all: ReadonlyMap<string, PlannedDerivation>,
  wanted: readonly string[],
): void {
  const places = new Map<string, string>()
  for (const name of wanted)
    for (const output of all.get(name)?.outputs ?? []) {
      const place = placeName(name, output)
      const before = places.get(place)
      if (before !== undefined)
        throw errorAt(
          located,
          located.positions.find('key', ['derivation', name]),
          'MESH0208',
          `the output ${JSON.stringify(output)} of ${name} and an output of ${before} would both be written to ${place}`,
        )
      places.set(place, name)
    }
}
