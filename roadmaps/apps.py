from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.stores import platforms


class RoadmapsConfig(platforms.StoreAppConfig):
    name = "roadmaps"
    verbose_name = _("Roadmaps")
    store = "roadmaps"
    store_title = _("Roadmaps")
    icons = {
        "roadmaptask": "route",
        "roadmapmetadata": "map",
        "tutorialmetadata": "menu_book",
        "resourcerecommendationmetadata": "link",
        "quizmetadata": "quiz",
    }
    identifiers = {"roadmaptask": ("roadmap_id",)}
    json_columns = {
        "roadmap_tasks": ("user_request", "failed_concepts", "execution_summary"),
        "roadmap_metadata": ("framework_data",),
        "resource_recommendation_metadata": ("resources", "search_queries_used"),
        "quiz_metadata": ("questions",),
    }
    hot_queries = (
        platforms.by("roadmap_tasks", "status", "'processing'"),
        platforms.by("roadmap_tasks", "roadmap_id"),
        platforms.by("tutorial_metadata", "roadmap_id"),
        platforms.by("resource_recommendation_metadata", "roadmap_id"),
        platforms.by("quiz_metadata", "roadmap_id"),
    )
