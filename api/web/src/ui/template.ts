// SPDX-License-Identifier: Apache-2.0
/** Names between double braces, in the order of their first use. */
export function placeholders(text: string): readonly string[] {
  return [...new Set([...text.matchAll(/\{\{\s*([\w.]+)\s*\}\}/g)].map((match) => match[1] ?? ''))];
}
