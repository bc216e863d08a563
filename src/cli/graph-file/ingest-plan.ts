/** The last step before a graph is submitted: local files become entries, and their blobs an upload. */
import { readdirSync, realpathSync } from 'node:fs'
import { basename, join, matchesGlob, relative, resolve } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import { ingest } from '../../files/ingest.ts'
import type { Graph, InputRef } from '../../wire/derivation.ts'
import { TREE_ENTRIES_MAX, type Entry } from '../../wire/tree.ts'
import { composeTree } from '../compose-tree.ts'
import type { Upload } from '../upload.ts'
import type { Input } from './description.ts'
import { errorAt, type Located } from './located.ts'
import type { Plan, PlannedInput, PlannedInputs } from './plan.ts'

export interface IngestContext {
  readonly located: Located
  /** What relative paths are relative to. */
  readonly directory: string
  readonly upload: Upload
  /** The entry that a CID stands for: its size is asked of the daemon. */
  readonly entryOfCid: (cid: string) => Promise<Entry>
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
  const derivations: Graph['derivations'] = []
  for (const derivation of plan.derivations) {
    const variants = []
    for (const variant of derivation.variants)
      variants.push({ ...variant, inputs: await convertAll(variant.inputs) })
    derivations.push({ ...derivation, inputs: await convertAll(derivation.inputs), variants })
  }
  return { v: 1, name, derivations, wanted: [...plan.wanted] }
}

/** What is known about a file gets the line that names it. */
function located(
  { located: file }: IngestContext,
  { path }: PlannedInput,
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
    `input ${JSON.stringify(path.at(-1))}: ${error.message}`,
    error.hints,
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
