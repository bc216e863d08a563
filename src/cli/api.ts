/**
 * Derivation files written in TypeScript: `import { defineGraph } from '@buildmesh/mesh/api'`.
 *
 * What is made here has the form of a derivation file in JSON (docs/derivations.md) and is checked as
 * one when it is submitted. Paths are relative to the file that `mesh submit` is given.
 */
import type { GraphDescriptionInput } from './graph-file/description.ts'

export type GraphDescription = GraphDescriptionInput
type Derivations = NonNullable<GraphDescription['derivation']>
type Sources = NonNullable<GraphDescription['sources']>
type FileInput = NonNullable<Derivations[string]['inputs']>[string]
type FilePart = NonNullable<FileInput['files']>[string]

/** The output of another derivation. */
export interface OutputRef {
  readonly output: string
}

/** A file from a URL, with the sha256 that it must have. */
export interface HttpSource {
  readonly http: {
    readonly urls: readonly string[]
    readonly sha256: string
    readonly name: string
  }
}

/** A local file or directory; put in the store when it is submitted. */
export interface LocalPath {
  readonly path: string
  readonly include?: string[]
  readonly exclude?: string[]
}

/** A directory put together from several places. */
export interface Files {
  readonly files: Record<string, FilePart>
}

/** What is in the store already. */
export interface Stored {
  readonly cid: string
  readonly executable?: boolean
}

export type Input =
  | OutputRef
  | HttpSource
  | LocalPath
  | Files
  | Stored
  | { readonly source: string }

type When = Omit<NonNullable<Derivations[string]['when']>[number], 'inputs'> & {
  readonly inputs?: Readonly<Record<string, Input>>
}
export interface DerivationOptions<Outputs extends readonly string[]> extends Omit<
  Derivations[string],
  'inputs' | 'outputs' | 'when'
> {
  readonly outputs?: Outputs
  readonly inputs?: Readonly<Record<string, Input>>
  readonly when?: readonly When[]
}

export interface GraphBuilder {
  /** Adds a derivation; gives its outputs, to be used as inputs of others. */
  derivation<const Outputs extends readonly string[] = readonly ['out']>(
    name: string,
    options: DerivationOptions<Outputs>,
  ): { readonly [Name in Outputs[number]]: OutputRef }
}

export interface GraphOptions {
  /** Merged into every derivation. */
  readonly defaults?: NonNullable<GraphDescription['defaults']>
}

/** For a generator that has to wait for something. */
export function defineGraph(
  define: (graph: GraphBuilder) => Promise<void>,
  options?: GraphOptions,
): Promise<GraphDescription>
/** The graph that `define` builds: the default export of a derivation file. */
export function defineGraph(
  define: (graph: GraphBuilder) => void,
  options?: GraphOptions,
): GraphDescription
export function defineGraph(
  define: (graph: GraphBuilder) => void | Promise<void>,
  options: GraphOptions = {},
): GraphDescription | Promise<GraphDescription> {
  const derivations = new Map<string, Derivations[string]>()
  const sources = new Map<string, Sources[string]>()

  const convert = (inputs: Readonly<Record<string, Input>>): Record<string, FileInput> =>
    Object.fromEntries(
      Object.entries(inputs).map(([name, input]): [string, FileInput] => [
        name,
        'http' in input ? { source: addSource(sources, input) } : input,
      ]),
    )

  const builder: GraphBuilder = {
    derivation(name, { inputs, outputs, when, ...rest }) {
      if (derivations.has(name))
        throw new Error(`the derivation ${JSON.stringify(name)} is defined twice`)
      derivations.set(name, {
        ...rest,
        ...(outputs === undefined ? {} : { outputs: [...outputs] }),
        ...(inputs === undefined ? {} : { inputs: convert(inputs) }),
        ...(when === undefined
          ? {}
          : {
              when: when.map(({ inputs: extra, ...block }) => ({
                ...block,
                ...(extra === undefined ? {} : { inputs: convert(extra) }),
              })),
            }),
      })
      const made = (outputs ?? ['out']).map((output) => [output, { output: `${name}.${output}` }])
      // Object.fromEntries cannot say that its keys are the names that it was given.
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion
      return Object.fromEntries(made) as {
        [Name in (typeof outputs & readonly string[])[number]]: OutputRef
      }
    },
  }
  const finish = (): GraphDescription => ({
    mesh: 1,
    ...options,
    sources: Object.fromEntries(sources),
    derivation: Object.fromEntries(derivations),
  })
  const done = define(builder)
  return done === undefined ? finish() : done.then(finish)
}

/** Sources fetched over HTTP. */
export const source = {
  /** `name` is shown in lists; by default the last part of the first URL. */
  http(
    urls: string | readonly string[],
    options: { readonly sha256: string; readonly name?: string },
  ): HttpSource {
    const list = typeof urls === 'string' ? [urls] : urls
    const last = list[0]?.split(/[?#]/)[0]?.split('/').at(-1) ?? ''
    const name = (options.name ?? last).replaceAll(/[^A-Za-z0-9_.+-]/g, '_').slice(0, 100)
    return { http: { urls: list, sha256: options.sha256, name: name || 'source' } }
  },
}

/** A file or directory beside the graph file. With `include` only what matches: `{ include: ['**\/*.h'] }` is a tree of headers. */
export function path(
  relative: string,
  filter: { readonly include?: readonly string[]; readonly exclude?: readonly string[] } = {},
): LocalPath {
  return {
    path: relative,
    ...(filter.include === undefined ? {} : { include: [...filter.include] }),
    ...(filter.exclude === undefined ? {} : { exclude: [...filter.exclude] }),
  }
}

/** One input tree out of several files and directories, by their paths in it. */
export function files(parts: Readonly<Record<string, LocalPath | Stored>>): Files {
  return { files: { ...parts } }
}

/** Something that is in the store, as printed by `mesh put`. */
export function cid(text: string, options: { readonly executable?: boolean } = {}): Stored {
  return { cid: text, ...options }
}

/** The name of the source in the file; two sources of one name are told apart by their digests. */
function addSource(sources: Map<string, Sources[string]>, { http }: HttpSource): string {
  const { urls, sha256, name } = http
  const before = sources.get(name)
  const key =
    before === undefined || before.sha256 === sha256 ? name : `${name}-${sha256.slice(0, 8)}`
  sources.set(key, { urls: [...new Set([...(sources.get(key)?.urls ?? []), ...urls])], sha256 })
  return key
}
