/** The last step before a graph is submitted: local files become entries, and their blobs an upload. */
import { readdirSync, realpathSync } from 'node:fs'
import { basename, join, matchesGlob, relative, resolve } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import { ingest } from '../../files/ingest.ts'
import { hostsOf, type Graph, type InputRef } from '../../wire/derivation.ts'
import { TREE_ENTRIES_MAX, type Entry } from '../../wire/tree.ts'
import type { ImageView } from '../../wire/images.ts'
import { composeTree } from '../compose-tree.ts'
import type { Upload } from '../upload.ts'
import type { Input } from './description.ts'
import { readLayer, type PlannedLayer } from './image-plan.ts'
import { errorAt, type Located } from './located.ts'
import type { Plan, PlannedInput, PlannedInputs } from './plan.ts'

export interface IngestContext {
  readonly located: Located
  /** What relative paths are relative to. */
  readonly directory: string
  readonly upload: Upload
  /** The entry that a CID stands for: its size is asked of the daemon. */
  readonly entryOfCid: (cid: string) => Promise<Entry>
  /** The image of a name, asked of the daemon. Throws MESH0601 with the nearest names. */
  readonly imageOf: (name: string) => Promise<ImageView>
}

/** Throws MESH0203, MESH0205, MESH0207 with the line of the input. */
export async function ingestPlan(context: IngestContext, plan: Plan, name: string): Promise<Graph> {
  // Derivations often share inputs: each is read once.
  const known = new Map<string, Promise<Entry>>()
  const convert = async (input: PlannedInput): Promise<InputRef> => {
    if (input.kind === 'output')
      return { kind: 'output', derivation: input.derivation, output: input.output }
    const key = JSON.stringify(input.input)
    const entry = known.get(key) ?? ingestInput(context, input.input)
    known.set(key, entry)
    try {
      return { kind: 'entry', entry: await entry }
    } catch (error) {
      throw located(context, input, error)
    }
  }
  const convertAll = async (inputs: PlannedInputs): Promise<Record<string, InputRef>> => {
    const converted: Record<string, InputRef> = {}
    for (const [inputName, input] of Object.entries(inputs))
      converted[inputName] = await convert(input)
    return converted
  }
  const knownLayers = new Map<string, ReturnType<typeof readLayer>>()
  const convertLayers = async (
    layers: readonly PlannedLayer[],
    derivation: Plan['derivations'][number],
    hosts: readonly string[],
  ): Promise<InputRef[]> => {
    const refs: InputRef[] = []
    for (const layer of layers) {
      const { path, ...what } = layer
      const key = JSON.stringify(what)
      const reading = knownLayers.get(key) ?? readLayer(context, layer)
      knownLayers.set(key, reading)
      try {
        const { ref, system } = await reading
        // What lies above may be tools of the machine itself, in the place of slow ones.
        if (layer === layers.at(-1)) checkSystem(layer, system, derivation, hosts)
        if (ref.kind === 'entry' && ref.entry.kind !== 'dir')
          throw new MeshError('MESH0203', 'an image is a directory')
        refs.push(ref)
      } catch (error) {
        throw located(context, { path }, error)
      }
    }
    return refs
  }
  /** That of the lowest layer whose system is known. */
  const systemOf = async (layers: readonly PlannedLayer[]): Promise<string | undefined> => {
    for (const layer of layers.toReversed()) {
      const { path: _, ...what } = layer
      const read = await knownLayers.get(JSON.stringify(what))
      if (read?.system !== undefined && read.system !== 'any') return read.system
    }
    return undefined
  }
  const derivations: Graph['derivations'] = []
  for (const derivation of plan.derivations) {
    const { image, inputs, ...rest } = derivation
    const hosts = hostsOf(derivation)
    const variants = []
    for (const { image: own, ...variant } of derivation.variants)
      variants.push({
        ...variant,
        inputs: await convertAll(variant.inputs),
        ...(own === undefined
          ? {}
          : { image: await convertLayers(own, derivation, [variant.host]) }),
      })
    const withOwn = new Set(
      derivation.variants.filter((one) => one.image !== undefined).map(({ host }) => host),
    )
    const others = hosts.filter((host) => !withOwn.has(host))
    const layers = image && (await convertLayers(image, derivation, others))
    const system = await systemOf(image ?? [])
    derivations.push({
      ...rest,
      // What depends on no machine runs where the programs of its image do.
      ...(hosts.length === 1 && hosts[0] === 'any' && system !== undefined
        ? { hosts: [system] }
        : {}),
      inputs: await convertAll(inputs),
      variants,
      ...(layers === undefined ? {} : { image: layers }),
    })
  }
  return { v: 1, name, derivations, wanted: [...plan.wanted] }
}

/** What is known about a file gets the line that names it. */
function located(
  { located: file }: IngestContext,
  { path }: Pick<PlannedInput, 'path'>,
  error: unknown,
): unknown {
  if (
    !(error instanceof MeshError) ||
    !['MESH0203', 'MESH0205', 'MESH0207', 'MESH0601', 'MESH0501'].includes(error.code)
  )
    return error
  const position =
    file.positions.find('value', [...path, 'path']) ?? file.positions.find('value', path)
  return errorAt(
    file,
    position,
    error.code,
    path.includes('image')
      ? `image: ${error.message}`
      : `input ${JSON.stringify(path.at(-1))}: ${error.message}`,
    error.hints,
  )
}

/** Throws MESH0203 for an image whose programs run on none of the hosts, or not on one of them. */
function checkSystem(
  layer: PlannedLayer,
  system: string | undefined,
  derivation: Plan['derivations'][number],
  hosts: readonly string[],
): void {
  if (layer.kind !== 'image' || system === undefined || system === 'any') return
  const other = hosts.find((host) => host !== system && host !== 'any')
  if (other === undefined) return
  throw new MeshError(
    'MESH0203',
    `the image ${layer.name} is for ${system}, and ${derivation.name} may be built on ${other}`,
    {
      hints: [
        `build it on that system alone: needs.host = ["${system}"]`,
        `name an image for ${other} in a block of "when": mesh image ls`,
      ],
    },
  )
}

async function ingestInput(context: IngestContext, input: Input): Promise<Entry> {
  if (input.path !== undefined)
    return ingestPath(context.upload, context.directory, input.path, input)
  if (input.cid !== undefined) {
    const entry = await context.entryOfCid(input.cid)
    return entry.kind === 'file' ? { ...entry, executable: input.executable ?? false } : entry
  }
  const parts = new Map<string, Entry>()
  for (const [path, part] of Object.entries(input.files ?? {}))
    parts.set(path, await ingestInput(context, part))
  return composeTree(context.upload, parts)
}

export interface PathFilter {
  readonly include?: readonly string[] | undefined
  readonly exclude?: readonly string[] | undefined
}

/**
 * The entry of what a person names: the path itself may be a symbolic link and is followed, those below
 * it are not. Throws MESH0205.
 */
export async function ingestPath(
  upload: Upload,
  directory: string,
  path: string,
  { include, exclude = [] }: PathFilter = {},
): Promise<Entry> {
  let real: string
  try {
    real = realpathSync(resolve(directory, path))
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw error
    throw new MeshError('MESH0205', `${path} does not exist (looked in ${directory})`, {
      cause: error,
    })
  }
  if (include === undefined) return ingest(upload.sink, real, { exclude })
  const parts = new Map<string, Entry>()
  for (const file of filesBelow(real, include, exclude))
    parts.set(file, await ingest(upload.sink, join(real, file)))
  if (parts.size === 0)
    throw new MeshError(
      'MESH0203',
      `no file in ${path} matches ${include.map((glob) => JSON.stringify(glob)).join(' or ')}`,
    )
  return composeTree(upload, parts)
}

/** Paths under `root` of all but directories that match `include` and lie in nothing excluded. */
function filesBelow(
  root: string,
  include: readonly string[],
  exclude: readonly string[],
): string[] {
  const found: string[] = []
  const visit = (directory: string): void => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = relative(root, join(directory, entry.name))
      if (matches(path, exclude)) continue
      if (entry.isDirectory()) visit(join(directory, entry.name))
      else if (matches(path, include)) found.push(path)
      if (found.length > TREE_ENTRIES_MAX)
        throw new MeshError('MESH0211', `more than ${TREE_ENTRIES_MAX} files match`)
    }
  }
  visit(root)
  return found
}

/** The rule of `ingest`: a glob without a slash is for the name at any depth. */
const matches = (path: string, globs: readonly string[]): boolean =>
  globs.some((glob) => matchesGlob(glob.includes('/') ? path : basename(path), glob))
