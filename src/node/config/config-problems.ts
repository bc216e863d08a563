/** What is wrong with a configuration, for the person who wrote it: where it stands, and what was meant perhaps. */
import type { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { nearest } from '../../base/nearest.ts'
import type { ConfigFile } from './config-file.ts'
import { isLoopback, parseHostPort, parseListenAddress, type HostPort } from './config-values.ts'
import { IMAGE_KEYS } from './image-settings.ts'
import type { FilledSettings } from './machine-defaults.ts'
import { POLICY_KEYS } from './policy-settings.ts'
import { SETTINGS, type SettingSpec } from './setting-table.ts'
import { Settings } from './settings.ts'
import { GROUP_KEYS, ShareSettings } from './share-settings.ts'

/** Of what the schema found in the file, the lines that it stands in. */
export function fileProblems(file: ConfigFile, issue: z.core.$ZodIssue): MeshError[] {
  if (issue.code !== 'unrecognized_keys')
    return [file.errorAt('value', issue.path, `${issue.path.join('.')}: ${issue.message}`)]
  const [section] = issue.path
  const known = section === undefined ? Object.keys(Settings.shape) : knownKeys(section, issue.path)
  const place = section === undefined ? 'at the top' : `in [${tableOf(issue.path)}]`
  return issue.keys.map((key) =>
    file.errorAt('key', [...issue.path, key], `unknown key ${JSON.stringify(key)} ${place}`, [
      hintFor(key, known),
    ]),
  )
}

/** The name of the table that the path leads to: indices of arrays are no part of it. */
const tableOf = (path: readonly PropertyKey[]): string =>
  path.filter((part) => typeof part === 'string').join('.')

function knownKeys(section: PropertyKey, path: readonly PropertyKey[]): readonly string[] {
  if (section === 'shares') return path.length > 1 ? GROUP_KEYS : Object.keys(ShareSettings.shape)
  if (section === 'worker' && path[1] === 'image') return IMAGE_KEYS
  if (section === 'worker' && path.length > 1) return POLICY_KEYS[String(path[1])] ?? []
  if (section === 'worker') return Object.keys(Settings.shape.worker.unwrap().shape)
  return SETTINGS.filter((spec) => spec.section === section).map(({ key }) => key)
}

function hintFor(key: string, known: readonly string[]): string {
  const elsewhere = SETTINGS.find((spec) => spec.key === key || spec.flag === key)
  const [near] = nearest(key, known)
  if (near !== undefined) return `did you mean ${JSON.stringify(near)}?`
  if (elsewhere !== undefined)
    return `did you mean ${JSON.stringify(elsewhere.key)} in [${elsewhere.section}]?`
  return `known: ${known.join(', ')}`
}

const isExposed = (address: HostPort | undefined): boolean =>
  address !== undefined && !isLoopback(address.host)

/** MESH0107 for every address that other machines reach while nobody was said to be admitted. */
export function exposureProblems(
  { node, http }: FilledSettings,
  sourceOf: (spec: SettingSpec) => string,
): MeshError[] {
  if (node.allow !== undefined) return []
  const exposed: [flag: string, address: string][] = [
    ...node.listen
      .filter((text) => isExposed(parseListenAddress(text)))
      .map((text): [string, string] => ['listen', text]),
    ...(isExposed(parseHostPort(http.listen)) ? [['http', http.listen] as [string, string]] : []),
  ]
  return exposed.map(([flag, address]) => {
    const spec = SETTINGS.find((candidate) => candidate.flag === flag)
    const where = spec === undefined ? '' : ` (${sourceOf(spec)})`
    return new MeshError(
      'MESH0107',
      `other machines reach ${address}${where}, and nothing says which peers are admitted`,
      {
        hints: [
          'admit peers one by one: --allow PEERID (repeatable)',
          'admit everybody on a network that you trust: --allow any',
        ],
      },
    )
  })
}
